//! Ids and delivery tags as they are kept by the hundred thousand.

use uuid::Uuid;

use super::counting::mark;

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
        self.read(str::to_owned)
    }

    /// The [`mark`] of its text.
    pub(super) fn mark(&self) -> u64 {
        self.read(mark)
    }

    fn read<T>(&self, reader: impl FnOnce(&str) -> T) -> T {
        match self {
            Self::Uuid(uuid) => {
                let mut buffer = Uuid::encode_buffer();
                reader(uuid.as_hyphenated().encode_lower(&mut buffer))
            }
            Self::Text(text) => reader(text),
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
            let name = Name::of(text);
            assert_eq!((name.text().as_str(), name.mark()), (text, mark(text)));
        }
        assert!(matches!(
            Name::of("6f1c0e5a-0001-4000-8000-6b696c6c6564"),
            Name::Uuid(_)
        ));
    }
}
