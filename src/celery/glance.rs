//! What a message says of its fate, skimmed where it is as kombu writes it, and read whole where it is not.

use super::message::{Envelope, Keep, Malformed, parse};
use super::mould::Moulds;
use super::skim::Skim;
use super::when::When;

/// What tells messages with different fates apart, read without the body, which is most of the work.
pub struct Glance<'m>(Seen<'m>);

enum Seen<'m> {
    /// Protocol 2 as kombu writes it.
    Skimmed(Skim<'m>),
    /// Whatever else there is.
    Whole(Box<Envelope>),
}

/// Looks at messages as they stand in queues. It learns from each what the next may have in common with it.
#[derive(Debug, Default)]
pub struct Glances(Moulds);

impl Glances {
    /// Looks at one. It fails where [`parse`] does, save for damage in parts that are not looked at.
    pub fn at<'s>(&'s mut self, message: &'s [u8]) -> Result<Glance<'s>, Malformed> {
        if let Some(skim) = self.0.skim(message) {
            return Ok(Glance(Seen::Skimmed(skim)));
        }
        parse(message, Keep::Envelope).map(|envelope| Glance(Seen::Whole(Box::new(envelope))))
    }
}

impl Glance<'_> {
    /// What was read whole already.
    pub fn of(envelope: Envelope) -> Self {
        Self(Seen::Whole(Box::new(envelope)))
    }

    /// The task's id.
    pub fn id(&self) -> &str {
        match &self.0 {
            Seen::Skimmed(skim) => skim.id,
            Seen::Whole(envelope) => &envelope.id,
        }
    }

    /// As [`Envelope::task`], and so on.
    pub fn task(&self) -> Option<&str> {
        self.text(|skim| skim.task, |envelope| &envelope.task)
    }

    /// As [`Envelope::content_type`].
    pub fn content_type(&self) -> Option<&str> {
        self.text(|skim| skim.content_type, |envelope| &envelope.content_type)
    }

    /// As [`Envelope::delivery_tag`].
    pub fn delivery_tag(&self) -> Option<&str> {
        self.text(|skim| skim.delivery_tag, |envelope| &envelope.delivery_tag)
    }

    /// As [`Envelope::exchange`]; none for the default exchange too.
    pub fn exchange(&self) -> Option<&str> {
        self.text(|skim| skim.exchange, |envelope| &envelope.exchange)
    }

    /// As [`Envelope::routing_key`].
    pub fn routing_key(&self) -> Option<&str> {
        self.text(|skim| skim.routing_key, |envelope| &envelope.routing_key)
    }

    /// As [`Envelope::eta`].
    pub fn eta(&self) -> Option<When> {
        match &self.0 {
            Seen::Skimmed(skim) => skim.eta.and_then(When::parse),
            Seen::Whole(envelope) => envelope.eta,
        }
    }

    /// As [`Envelope::expires`].
    pub fn expires(&self) -> Option<When> {
        match &self.0 {
            Seen::Skimmed(skim) => skim.expires.and_then(When::parse),
            Seen::Whole(envelope) => envelope.expires,
        }
    }

    /// As [`Envelope::retries`].
    pub fn retries(&self) -> Option<u64> {
        match &self.0 {
            Seen::Skimmed(skim) => skim.retries,
            Seen::Whole(envelope) => envelope.retries,
        }
    }

    /// As [`Envelope::redelivered`].
    pub fn redelivered(&self) -> bool {
        match &self.0 {
            Seen::Skimmed(skim) => skim.redelivered,
            Seen::Whole(envelope) => envelope.redelivered,
        }
    }

    fn text(
        &self,
        skimmed: for<'a> fn(&Skim<'a>) -> Option<&'a str>,
        whole: fn(&Envelope) -> &Option<String>,
    ) -> Option<&str> {
        match &self.0 {
            Seen::Skimmed(skim) => skimmed(skim),
            Seen::Whole(envelope) => whole(envelope).as_deref().filter(|text| !text.is_empty()),
        }
    }
}
