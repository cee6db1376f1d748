//! What tells messages with different fates apart, read at nearly the speed of the transfer.
//!
//! Kombu writes plain JSON whose keys and names need no escapes. Whatever else a message is made of is not understood
//! here, and is read as a whole.

use super::finder::Walk;

/// The parts of a message of protocol 2, as they stand in it; those that are null or missing are none.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Skim<'m> {
    pub(super) id: &'m str,
    pub(super) task: Option<&'m str>,
    pub(super) eta: Option<&'m str>,
    pub(super) expires: Option<&'m str>,
    pub(super) retries: Option<u64>,
    pub(super) redelivered: bool,
    pub(super) content_type: Option<&'m str>,
    pub(super) delivery_tag: Option<&'m str>,
    pub(super) exchange: Option<&'m str>,
    pub(super) routing_key: Option<&'m str>,
}

/// Skims a message; none where only a whole reading can tell.
pub(super) fn skim(message: &[u8]) -> Option<Skim<'_>> {
    // What is not UTF-8 anywhere is no message, whatever stands in the parts that matter.
    std::str::from_utf8(message).ok()?;
    let mut skim = Skim::default();
    let mut walk = Walk::new(message);
    let (mut headers, mut properties, mut has_task) = (false, false, false);
    walk.object(|walk, key| match key {
        b"content-type" => walk.once(&mut skim.content_type),
        b"headers" if !headers => {
            headers = true;
            walk.object(|walk, key| match key {
                b"id" => {
                    let mut id = None;
                    walk.once(&mut id)?;
                    // Twice is for the whole reading to refuse.
                    if !skim.id.is_empty() {
                        return None;
                    }
                    skim.id = id?;
                    Some(())
                }
                b"task" => {
                    has_task = true;
                    walk.once(&mut skim.task)
                }
                b"eta" => walk.once(&mut skim.eta),
                b"expires" => walk.once(&mut skim.expires),
                b"retries" => walk.number(&mut skim.retries),
                b"redelivered" => {
                    skim.redelivered |= walk.flag()?;
                    Some(())
                }
                _ => walk.skip(),
            })
        }
        b"properties" if !properties => {
            properties = true;
            walk.object(|walk, key| match key {
                b"delivery_tag" => walk.once(&mut skim.delivery_tag),
                b"delivery_info" => walk.object(|walk, key| match key {
                    b"exchange" => walk.once(&mut skim.exchange),
                    b"routing_key" => walk.once(&mut skim.routing_key),
                    b"redelivered" => {
                        skim.redelivered |= walk.flag()?;
                        Some(())
                    }
                    _ => walk.skip(),
                }),
                _ => walk.skip(),
            })
        }
        b"headers" | b"properties" => None,
        _ => walk.skip(),
    })?;
    let whole = walk.is_at_end() && headers && properties && has_task && !skim.id.is_empty();
    whole.then_some(skim)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::celery::glance::Glances;
    use crate::celery::message::{Keep, parse};
    use crate::celery::samples::SAMPLES;
    use proptest::prelude::*;

    /// Skimmed or not, a glance says what the whole reading says.
    fn same(message: &[u8]) {
        let mut glances = Glances::default();
        let (seen, read) = (glances.at(message), parse(message, Keep::Envelope));
        let (Ok(seen), Ok(read)) = (&seen, &read) else {
            // What is damaged where nobody looks may pass.
            assert!(read.is_err(), "{}", String::from_utf8_lossy(message));
            return;
        };
        assert_eq!(seen.id(), read.id);
        assert_eq!(seen.task(), read.task.as_deref());
        assert_eq!(seen.eta(), read.eta);
        assert_eq!(seen.expires(), read.expires);
        assert_eq!(seen.retries(), read.retries);
        assert_eq!(seen.redelivered(), read.redelivered);
        assert_eq!(seen.content_type(), read.content_type.as_deref());
        assert_eq!(seen.delivery_tag(), read.delivery_tag.as_deref());
        let filled = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        assert_eq!(seen.exchange().map(str::to_owned), filled(&read.exchange));
        assert_eq!(
            seen.routing_key().map(str::to_owned),
            filled(&read.routing_key)
        );
    }

    #[test]
    fn what_kombu_writes_is_skimmed_and_read_alike() {
        let mut skimmed = 0;
        for value in &SAMPLES.unacked {
            let end = value
                .rfind(", \"\", \"celery\"]")
                .expect("the end of kombu's text");
            let message = &value.as_bytes()[1..end];
            skimmed += usize::from(skim(message).is_some());
            same(message);
        }
        assert!(skimmed > 0);
    }

    #[test]
    fn what_is_not_plain_is_left_to_the_whole_reading() {
        for message in [
            r#"{"headers": {"id": "a", "task": "t\u00e4sk"}, "properties": {}}"#,
            r#"{"headers": {"id": "a", "id": "b", "task": "t"}, "properties": {}}"#,
            r#"{"headers": {"id": null, "task": "t"}, "properties": {}}"#,
            r#"{"headers": {"id": "a"}, "properties": {}}"#,
            r#"{"headers": {"id": "a", "task": "t"}, "properties": {}} x"#,
            r#"{"headers": {"id": "a", "task": "t"}, "properties": {"#,
            r#"{"headers": {"id": "a", "task": "t"}, "headers": {}, "properties": {}}"#,
            r#"["headers"]"#,
            "",
        ] {
            assert_eq!(skim(message.as_bytes()), None, "{message}");
            same(message.as_bytes());
        }
    }

    proptest! {
        #[test]
        fn a_cut_or_changed_message_is_survived(cut in 0_usize..2000, byte in any::<u8>()) {
            for value in &SAMPLES.unacked {
                let mut message = value.as_bytes()[1..].to_vec();
                let at = cut % message.len();
                let _ = skim(&message[..at]);
                message[at] = byte;
                let _ = skim(&message);
            }
        }
    }
}
