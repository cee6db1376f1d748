//! Which rules are meant: one by its code or name, or a whole family.

use std::fmt;

use crate::diagnose::{Rule, registry};

/// A rule, or a family of rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selector {
    /// All whose codes begin so: `CD3`.
    Family(&'static str),
    /// The one with this code.
    Rule(&'static str),
}

impl Selector {
    /// Reads a code (`CD301`), a name (`visibility-expired`) or a family (`CD3`, `CD3xx`), in any case.
    ///
    /// # Errors
    /// Where no rule of this version is meant: what was expected, as a sentence part.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if let Some(rule) = registry::find(text) {
            return Ok(Self::Rule(rule.code));
        }
        let lower = text.to_ascii_lowercase();
        let family = lower.strip_suffix("xx").unwrap_or(&lower);
        let of_family = |rule: &&&Rule| {
            let start = rule.code.get(..FAMILY_CHARS);
            start.is_some_and(|start| start.eq_ignore_ascii_case(family))
        };
        if let Some(rule) = registry::ALL.iter().find(of_family) {
            return Ok(Self::Family(&rule.code[..FAMILY_CHARS]));
        }
        let near = registry::nearest(text);
        let hint = near.map_or(String::new(), |name| format!(". Did you mean {name}?"));
        Err(format!(
            "a code such as CD101, a name such as no-consumer, or a family such as CD1xx{hint}"
        ))
    }

    /// Whether the rule of this code is meant.
    pub fn has(self, code: &str) -> bool {
        match self {
            Self::Family(start) => code.starts_with(start),
            Self::Rule(one) => code == one,
        }
    }
}

/// A family's codes begin with so many characters alike: `CD3`.
const FAMILY_CHARS: usize = 3;

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Family(start) => write!(f, "{start}xx"),
            Self::Rule(code) => f.write_str(code),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn codes_names_and_families_in_any_case() {
        for (text, expected) in [
            ("CD101", "CD101"),
            (" cd101 ", "CD101"),
            ("No-Consumer", "CD101"),
            ("CD3", "CD3xx"),
            ("cd3XX", "CD3xx"),
        ] {
            let selector = Selector::parse(text).expect(text);
            assert_eq!(selector.to_string(), expected, "{text}");
        }
        for text in ["", "CD", "CD30", "CD3x", "CD9", "CD999", "xx", "CD3xxxx"] {
            let error = Selector::parse(text).expect_err(text);
            assert!(error.contains("a family such as CD1xx"), "{error}");
        }
        let error = Selector::parse("no-consumr").expect_err("misspelt");
        assert!(error.ends_with("Did you mean no-consumer?"), "{error}");
    }

    #[test]
    fn a_selector_has_what_it_names() {
        let parse = |text| Selector::parse(text).expect(text);
        assert!(parse("CD3").has("CD301") && !parse("CD3").has("CD401"));
        assert!(parse("CD301").has("CD301") && !parse("CD301").has("CD302"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = Selector::parse(&text);
        }

        #[test]
        fn what_is_shown_is_read_again(index in 0..registry::ALL.len(), family in any::<bool>()) {
            let code = registry::ALL[index].code;
            let selector = Selector::parse(if family { &code[..3] } else { code }).expect(code);
            prop_assert_eq!(Selector::parse(&selector.to_string()), Ok(selector));
        }
    }
}
