//! Who is there from one question to the next: who came, who left, who fell silent.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use super::mailbox::{Audience, Mailbox, Voices};
use crate::evidence::Workers;

/// Who is known under a prefix; none where nobody answered and no broker would tell that somebody came since.
pub(super) fn listening<'a>(
    audiences: &'a HashMap<String, Audience>,
    prefix: &str,
    mailbox: &Mailbox,
) -> Option<&'a Audience> {
    let known = audiences.get(prefix)?;
    (matches!(mailbox, Mailbox::Redis(_)) || !known.voices.is_empty()).then_some(known)
}

/// Takes in who answered a question of those that answered the one before, and of others. Those that received it and
/// answered nothing fell silent, or came meanwhile; those that did not receive it left. Where nobody tells who received
/// it, all that answer no more count as silent until their mailboxes are looked at. Returns who is known from now on.
pub(super) fn take_in(
    workers: &mut Workers,
    prefix: &str,
    known: &Audience,
    voices: Voices,
    received: Option<RangeInclusive<u64>>,
) -> Audience {
    let mut gone = Vec::new();
    workers.answered.retain(|worker| {
        let here = worker.prefix != prefix || voices.contains_key(&worker.node);
        if !here {
            gone.push(worker.node.clone());
        }
        here
    });
    let all = gone.len() as u64;
    let mut unsettled: Vec<String> = Vec::new();
    let (mut came, mut late) = (0, 0);
    for (node, count) in &voices {
        if still_answers(workers, prefix, node) {
            // One of several workers under this name came or left.
            let before = known.voices.get(node).unwrap_or(count);
            if received.is_some() && before != count {
                unsettled.push(node.clone());
            }
            continue;
        }
        let names = workers.unanswered_names.len();
        if received.is_some() {
            workers.unanswered_names.retain(|name| name != node);
            came += count;
            late += (names - workers.unanswered_names.len()) as u64;
            unsettled.push(node.clone());
        } else if !workers.unanswered_names.contains(node) {
            unsettled.push(node.clone());
        }
    }
    let heard: u64 = voices.values().sum();
    let mut audience = Audience {
        voices,
        ..Audience::default()
    };
    let fell_silent = match received {
        None => all,
        Some(received) => {
            let unheard = received.start().saturating_sub(heard);
            let stayed = known.silent.min(unheard);
            let strangers = known.strangers.saturating_sub(came).min(unheard - stayed);
            let fell_silent = (unheard - stayed - strangers).min(all);
            // Those that were silent answered by now, or left.
            let left = known.silent - stayed;
            workers.silent = workers.silent.saturating_sub(left);
            audience.silent = stayed + fell_silent;
            let most = received.end().saturating_sub(heard);
            audience.strangers = most.saturating_sub(stayed + all);
            workers.others_unsettled |= left > late || audience.strangers > 0;
            fell_silent
        }
    };
    if fell_silent < all {
        unsettled.extend(gone.iter().cloned());
    }
    unsettled.retain(|node| !workers.unsettled.contains(node));
    workers.unsettled.extend(unsettled);
    if fell_silent > 0 {
        workers.silent += fell_silent;
        workers.unanswered_names.extend(gone);
    }
    audience
}

/// Those that were seen to go are not silent, though one of the same name may be there by now.
pub(super) fn note_departed(workers: &mut Workers, mailbox: &Mailbox) {
    let departed = mailbox.departed();
    let before = workers.unanswered_names.len();
    (workers.unanswered_names).retain(|node| !departed.contains(node));
    let gone = (before - workers.unanswered_names.len()) as u64;
    workers.silent = workers.silent.saturating_sub(gone);
    let new = departed
        .into_iter()
        .filter(|node| !workers.unsettled.contains(node));
    let new: Vec<String> = new.collect();
    workers.unsettled.extend(new);
}

/// Whether a node of this prefix answered at first and ever since.
pub(super) fn still_answers(workers: &Workers, prefix: &str, node: &str) -> bool {
    let mut answered = workers.answered.iter();
    answered.any(|worker| worker.prefix == prefix && worker.node == node)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testkit::Lab;

    /// What is known of the workers where these two answered the question before.
    struct After {
        answered: usize,
        unanswered: Vec<String>,
        silent: u64,
        unsettled: Vec<String>,
        others: bool,
    }

    fn audience(nodes: &[&str], silent: u64) -> Audience {
        Audience {
            voices: nodes.iter().map(|node| ((*node).to_owned(), 1)).collect(),
            silent,
            strangers: 0,
        }
    }

    fn lab(known: &Audience, unanswered: &[&str]) -> Lab {
        let mut lab = Lab::new();
        for node in known.voices.keys() {
            lab = lab.worker(node, &["celery"]);
        }
        let workers = lab.workers_mut();
        workers.silent = known.silent;
        workers.unanswered_names = unanswered.iter().map(|node| (*node).to_owned()).collect();
        lab
    }

    /// Takes in who answers, of so many that received it.
    fn then(
        lab: &mut Lab,
        known: &Audience,
        nodes: &[&str],
        received: Option<RangeInclusive<u64>>,
    ) -> (After, Audience) {
        let voices = audience(nodes, 0).voices;
        let workers = lab.workers_mut();
        let audience = take_in(workers, "", known, voices, received);
        let after = After {
            answered: workers.answered.len(),
            unanswered: workers.unanswered_names.clone(),
            silent: workers.silent,
            unsettled: workers.unsettled.clone(),
            others: workers.others_unsettled,
        };
        (after, audience)
    }

    /// Names that answered, that are silent and how many, and that came or left, where these two answered before.
    fn after(nodes: &[&str], received: Option<u64>) -> (usize, Vec<String>, u64, Vec<String>) {
        let known = audience(&["w1", "w2"], 0);
        let mut lab = lab(&known, &[]);
        let (after, _) = then(&mut lab, &known, nodes, received.map(|n| n..=n));
        assert!(!after.others);
        (
            after.answered,
            after.unanswered,
            after.silent,
            after.unsettled,
        )
    }

    #[test]
    fn who_received_a_question_and_answered_nothing_is_silent() {
        let silent = (1, vec!["w2".to_owned()], 1, Vec::new());
        assert_eq!(after(&["w1"], Some(2)), silent);
        // RabbitMQ does not tell who received it: the mailboxes will.
        assert_eq!(after(&["w1"], None), silent);
        assert_eq!(
            after(&["w1", "w2"], Some(2)),
            (2, Vec::new(), 0, Vec::new())
        );
    }

    #[test]
    fn who_did_not_receive_it_has_left_and_others_have_come() {
        let left = (1, Vec::new(), 0, vec!["w2".to_owned()]);
        assert_eq!(after(&["w1"], Some(1)), left);
        let came = (2, Vec::new(), 0, vec!["w3".to_owned()]);
        assert_eq!(after(&["w1", "w2", "w3"], Some(3)), came);
    }

    #[test]
    fn who_came_and_was_not_heard_is_noted() {
        let known = audience(&["w1"], 1);
        let mut lab = lab(&known, &["w2"]);
        // The silent one is still there, and a third received the question.
        let (after, known) = then(&mut lab, &known, &["w1"], Some(3..=3));
        assert!(after.others);
        assert_eq!((after.silent, known.unheard()), (1, 2));
        // It is heard now, by a name that nobody knew; the silent one is silent still.
        let (after, known) = then(&mut lab, &known, &["w1", "new"], Some(3..=3));
        assert_eq!((after.silent, known.unheard()), (1, 1));
        assert_eq!(after.unsettled, ["new"]);
    }

    #[test]
    fn where_nobody_answered_one_that_comes_is_noted() {
        let nobody = Audience::default();
        let (after, _) = then(&mut Lab::new(), &nobody, &[], Some(1..=1));
        assert!(after.others && after.silent == 0);
        let (after, _) = then(&mut Lab::new(), &nobody, &[], Some(0..=1));
        assert!(after.others, "it came between two questions");
        let (after, _) = then(&mut Lab::new(), &nobody, &["new"], Some(1..=1));
        assert_eq!(after.unsettled, ["new"]);
    }

    #[test]
    fn who_was_silent_and_has_left_is_silent_no_more() {
        let known = audience(&["w1"], 1);
        let mut lab = lab(&known, &["w2"]);
        let (after, known) = then(&mut lab, &known, &["w1"], Some(1..=1));
        assert_eq!((after.silent, known.unheard()), (0, 0));
        assert!(after.others, "it may be ending with a task in hand");
    }

    #[test]
    fn who_was_silent_and_answers_is_silent_no_more() {
        let known = audience(&["w1"], 1);
        let mut lab = lab(&known, &["w2"]);
        let (after, _) = then(&mut lab, &known, &["w1", "w2"], Some(2..=2));
        assert_eq!((after.silent, after.answered), (0, 1));
        assert_eq!(after.unsettled, ["w2"]);
        assert!(after.unanswered.is_empty() && !after.others);
    }

    #[test]
    fn a_dead_worker_that_comes_back_under_its_name_has_come() {
        let known = audience(&["w1"], 1);
        let mut lab = lab(&known, &["dead", "hung"]);
        let (after, _) = then(&mut lab, &known, &["w1", "dead"], Some(3..=3));
        assert_eq!((after.silent, after.unanswered), (1, vec!["hung".into()]));
        assert_eq!(after.unsettled, ["dead"]);
    }

    #[test]
    fn one_of_two_workers_of_a_name_that_leaves_is_noted() {
        let mut known = audience(&["twins"], 0);
        known.voices.insert("twins".to_owned(), 2);
        let (after, _) = then(&mut lab(&known, &[]), &known, &["twins"], Some(1..=1));
        assert_eq!((after.answered, after.silent), (1, 0));
        assert_eq!(after.unsettled, ["twins"]);
    }
}
