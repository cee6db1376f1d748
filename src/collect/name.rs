//! Ids and delivery tags as they are kept by the hundred thousand.

use uuid::Uuid;

/// A tag or an id: a UUID takes a third of its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Name {
    Uuid(Uuid),
    Text(Box<str>),
}

impl Name {
    pub(super) fn of(text: &str) -> Self {
        match Uuid::try_parse(text) {
            Ok(uuid) if is_written_back(&uuid, text) => Self::Uuid(uuid),
            _ => Self::Text(text.into()),
        }
    }

    pub(super) fn text(&self) -> String {
        match self {
            Self::Uuid(uuid) => uuid.as_hyphenated().to_string(),
            Self::Text(text) => text.to_string(),
        }
    }
}

fn is_written_back(uuid: &Uuid, text: &str) -> bool {
    uuid.as_hyphenated()
        .encode_lower(&mut Uuid::encode_buffer())
        == text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_as_they_were() {
        for text in [
            "6f1c0e5a-0001-4000-8000-6b696c6c6564",
            "6F1C0E5A-0001-4000-8000-6B696C6C6564",
            "6f1c0e5a00014000800 06b696c6c6564",
            "daily-report",
            "",
        ] {
            assert_eq!(Name::of(text).text(), text);
        }
        assert!(matches!(
            Name::of("6f1c0e5a-0001-4000-8000-6b696c6c6564"),
            Name::Uuid(_)
        ));
    }
}
