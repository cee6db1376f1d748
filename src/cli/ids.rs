//! Which ids are asked for: as they are given, and as they can be taken out of what is given.

use std::collections::{BTreeSet, HashSet};
use std::io::{BufRead, Read as _};

use crate::celery::task_id::{Taken, taken_from, taken_from_line};
use crate::report::TakenId;

/// Task ids that can't be.
#[derive(Debug, thiserror::Error)]
pub(super) enum IdsError {
    #[error("no task id given: name at least one, or pass - and write them to standard input")]
    NoIds,
    #[error("task id number {0} is empty")]
    EmptyId(usize),
    #[error("task id number {number} has {length} bytes: expected at most {MAX_ID_BYTES}")]
    LongId { number: usize, length: usize },
    #[error(
        "task id number {0} contains a control character: expected one id in each argument, or separated by white space on standard input"
    )]
    ControlCharacter(usize),
    #[error(
        "more than {MAX_STDIN_BYTES} bytes of task ids on standard input: split them into several runs"
    )]
    TooManyIds,
    #[error("what is on standard input is not UTF-8 text")]
    NotText,
    #[error("cannot read task ids from standard input")]
    Stdin(#[source] std::io::Error),
}

/// Celery's database backend keeps 155 characters of an id, Redis any number. A longer one is a mistake.
const MAX_ID_BYTES: usize = 1024;
/// Room for some 800,000 ids of the usual 36 characters.
const MAX_STDIN_BYTES: u64 = 32 * 1024 * 1024;

/// What one argument, or one word or line of standard input, may mean.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Reading {
    /// It as a whole; none of a line of a log, which is no id.
    whole: Option<String>,
    /// The ids in it.
    taken: Option<Taken>,
}

/// All that is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Asked {
    readings: Vec<Reading>,
    /// Lines of standard input with no id in them.
    lines_without: usize,
    /// Words beside an id that were passed over.
    passed_over: Vec<String>,
}

/// What is asked for in the end.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Settled {
    /// The ids, each once, in the order given.
    pub ids: Vec<String>,
    /// Those that were taken out of something.
    pub taken: Vec<TakenId>,
    /// What to tell the user, as sentences.
    pub notes: Vec<String>,
}

impl Asked {
    /// Reads arguments, where `-` stands for what `stdin` has, and ids that are exact.
    pub(super) fn read(
        args: &[String],
        exact: &[String],
        stdin: impl BufRead,
    ) -> Result<Self, IdsError> {
        let mut asked = Self::default();
        let mut stdin = Some(stdin);
        if let Some(line) = log_line(args) {
            asked.add_line(&line);
            asked.passed_over = args
                .iter()
                .filter(|arg| !arg.contains('['))
                .cloned()
                .collect();
        } else {
            for arg in args {
                if arg != "-" {
                    asked.add(arg)?;
                } else if let Some(stdin) = stdin.take() {
                    asked.add_text(&text(stdin)?)?;
                }
            }
        }
        for id in exact {
            let number = asked.readings.len() + 1;
            check_id(id, number)?;
            asked.readings.push(Reading {
                whole: Some(id.clone()),
                taken: None,
            });
        }
        if asked.readings.is_empty() {
            return Err(IdsError::NoIds);
        }
        Ok(asked)
    }

    fn add(&mut self, word: &str) -> Result<(), IdsError> {
        let taken = taken_from(word);
        let whole = match check_id(word, self.readings.len() + 1) {
            Ok(()) => Some(word.to_owned()),
            // What can't be an id may have one in it.
            Err(_) if taken.is_some() => None,
            Err(error) => return Err(error),
        };
        for (at, id) in taken.iter().flat_map(|taken| &taken.ids).enumerate() {
            check_id(id, self.readings.len() + at + 1)?;
        }
        self.readings.push(Reading { whole, taken });
        Ok(())
    }

    /// Takes the ids out of a line of several words.
    fn add_line(&mut self, line: &str) -> bool {
        let taken = taken_from_line(line)
            .filter(|taken| taken.ids.iter().all(|id| check_id(id, 1).is_ok()));
        let found = taken.is_some();
        if found {
            self.readings.push(Reading { whole: None, taken });
        }
        found
    }

    /// Standard input is a list of ids, separated by white space, or a text with ids in it, such as a log: that is what it
    /// is where a line of several words has an id in it that is no word by itself.
    fn add_text(&mut self, text: &str) -> Result<(), IdsError> {
        let is_log = text.lines().any(|line| {
            let mut words = line.split_whitespace();
            let several = words.clone().nth(1).is_some();
            several && taken_from_line(line).is_some() && !words.all(is_bare_id)
        });
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            if is_log {
                self.lines_without += usize::from(!self.add_line(line));
            } else {
                line.split_whitespace()
                    .try_for_each(|word| self.add(word))?;
            }
        }
        Ok(())
    }

    /// Every id to look for: what is given, and what can be taken out of it.
    pub(super) fn all(&self) -> Vec<String> {
        let mut seen = HashSet::new();
        let ids = self.readings.iter().flat_map(|reading| {
            let taken = reading.taken.iter().flat_map(|taken| &taken.ids);
            reading.whole.iter().chain(taken)
        });
        ids.filter(|id| seen.insert(*id)).cloned().collect()
    }

    /// Whether only a look can tell which of several readings is meant.
    pub(super) fn is_open(&self) -> bool {
        let both = |one: &Reading| one.whole.is_some() && one.taken.is_some();
        self.readings.iter().any(both)
    }

    /// Decides what is meant, once it is known which ids there are: something that is there as a whole is meant as a
    /// whole, whatever it looks like.
    pub(super) fn settle(&self, is_known: &dyn Fn(&str) -> bool) -> Settled {
        let mut settled = Settled::default();
        let mut seen = HashSet::new();
        let mut forms: BTreeSet<&str> = BTreeSet::new();
        let mut out = 0;
        for reading in &self.readings {
            let (ids, from) = reading.meant(is_known);
            for id in ids.iter().filter(|id| seen.insert((*id).clone())) {
                settled.ids.push(id.clone());
                if let Some(from) = from {
                    out += 1;
                    forms.insert(from);
                    settled.taken.push(TakenId {
                        id: id.clone(),
                        from,
                    });
                }
            }
        }
        match settled.taken.as_slice() {
            [] => {}
            [one] => settled
                .notes
                .push(format!("took the id {} out of {}", one.id, one.from)),
            _ => {
                let forms: Vec<&str> = forms.into_iter().collect();
                settled
                    .notes
                    .push(format!("took {out} ids out of {}", forms.join(", ")));
            }
        }
        match self.lines_without {
            0 => {}
            1 => settled.notes.push("1 line has no id in it".to_owned()),
            more => settled
                .notes
                .push(format!("{more} lines have no id in them")),
        }
        if !self.passed_over.is_empty() {
            let words = self.passed_over.join(" ");
            settled.notes.push(format!(
                "passed over {words}; --id takes an id exactly as it stands"
            ));
        }
        settled
    }
}

impl Reading {
    /// The ids that are meant, and from what they were taken.
    fn meant(&self, is_known: &dyn Fn(&str) -> bool) -> (Vec<String>, Option<&'static str>) {
        let whole = self.whole.as_ref();
        let Some(taken) = &self.taken else {
            return (whole.into_iter().cloned().collect(), None);
        };
        let is_whole = match whole {
            None => false,
            Some(whole) if is_known(whole) => true,
            Some(_) => !taken.sure && !taken.ids.iter().any(|id| is_known(id)),
        };
        if is_whole {
            (whole.into_iter().cloned().collect(), None)
        } else {
            (taken.ids.clone(), Some(taken.from))
        }
    }
}

/// A line of Celery's log that the shell took apart: `Task shop.add[ID] received`.
fn log_line(args: &[String]) -> Option<String> {
    let is_log = args.windows(2).any(|pair| {
        let named = pair[1].ends_with(']') && pair[1].contains('[');
        pair[0] == "Task" && named && taken_from(&pair[1]).is_some()
    });
    is_log.then(|| args.join(" "))
}

/// A word that is an id and nothing else, if perhaps in quotes or with a comma behind it.
fn is_bare_id(word: &str) -> bool {
    taken_from(word).is_none_or(|taken| taken.sure)
        && !word.contains(['[', ']', '{', '}', '<', '>', '=', ':', '/'])
}

fn text(stdin: impl BufRead) -> Result<String, IdsError> {
    let mut bytes = Vec::new();
    stdin
        .take(MAX_STDIN_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(IdsError::Stdin)?;
    if bytes.len() as u64 > MAX_STDIN_BYTES {
        return Err(IdsError::TooManyIds);
    }
    String::from_utf8(bytes).map_err(|_| IdsError::NotText)
}

fn check_id(id: &str, number: usize) -> Result<(), IdsError> {
    if id.is_empty() {
        Err(IdsError::EmptyId(number))
    } else if id.len() > MAX_ID_BYTES {
        Err(IdsError::LongId {
            number,
            length: id.len(),
        })
    } else if id.chars().any(char::is_control) {
        Err(IdsError::ControlCharacter(number))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "6f1c0e5a-0001-4000-8000-6b696c6c6564";
    const OTHER: &str = "7f1c0e5a-0001-4000-8000-6b696c6c6564";

    fn asked(args: &[&str], stdin: &str) -> Result<Asked, String> {
        let args: Vec<String> = args.iter().map(|&arg| arg.into()).collect();
        Asked::read(&args, &[], stdin.as_bytes()).map_err(|error| error.to_string())
    }

    /// The ids that are meant where nothing is known.
    fn ids(args: &[&str], stdin: &str) -> Result<Vec<String>, String> {
        Ok(asked(args, stdin)?.settle(&|_| false).ids)
    }

    fn strings<const N: usize>(ids: [&str; N]) -> Vec<String> {
        ids.map(str::to_owned).to_vec()
    }

    #[test]
    fn ids_come_from_arguments_and_standard_input_once_each() {
        assert_eq!(
            ids(&["b", "-", "a", "-"], "x\n b\t y\r\n"),
            Ok(strings(["b", "x", "y", "a"]))
        );
        assert_eq!(
            ids(&["an id with spaces"], ""),
            Ok(strings(["an id with spaces"]))
        );
        assert_eq!(ids(&["-"], " \n"), Err(IdsError::NoIds.to_string()));
    }

    #[test]
    fn ids_that_cannot_be_are_refused() {
        assert!(ids(&["a", ""], "").is_err_and(|error| error.contains("number 2 is empty")));
        assert!(ids(&[&"é".repeat(513)], "").is_err_and(|error| error.contains("1026 bytes")));
        assert!(ids(&[&"x".repeat(1024)], "").is_ok());
        assert!(ids(&["a\u{1b}[2J"], "").is_err_and(|error| !error.contains('\u{1b}')));
        assert!(Asked::read(&["-".to_owned()], &[], &b"\xff"[..]).is_err());
    }

    #[test]
    fn ids_are_taken_out_of_a_log() {
        let log = format!(
            "[2026: INFO] celery@w1 ready.\n[2026: INFO] Task shop.add[{ID}] received\n\
             [2026: INFO] Task shop.add[{ID}] succeeded in 1s: None\nTraceback:\n{{\"task_id\": \"{OTHER}\"}}\n"
        );
        let settled = asked(&["-"], &log)
            .map(|asked| asked.settle(&|_| false))
            .expect("ids");
        assert_eq!(settled.ids, [ID, OTHER]);
        assert_eq!(settled.taken.len(), 2);
        assert_eq!(settled.notes[1], "2 lines have no id in them");
    }

    #[test]
    fn a_list_is_no_log() {
        assert_eq!(
            ids(&["-"], &format!("order-7 {ID}\n{OTHER}")),
            Ok(strings(["order-7", ID, OTHER]))
        );
        assert_eq!(
            ids(&["-"], &format!("'{ID}', '{OTHER}'\n")),
            Ok(strings([ID, OTHER]))
        );
        assert_eq!(
            ids(&["-"], "order-7\norder-8\n"),
            Ok(strings(["order-7", "order-8"]))
        );
    }

    #[test]
    fn a_line_of_a_log_that_the_shell_took_apart() {
        let name = format!("shop.add[{ID}]");
        let settled = asked(&["Task", &name, "received"], "").map(|asked| asked.settle(&|_| false));
        let settled = settled.expect("an id");
        assert_eq!(settled.ids, [ID]);
        assert!(
            settled.notes[1].starts_with("passed over Task received"),
            "{:?}",
            settled.notes
        );
    }

    #[test]
    fn what_is_there_as_a_whole_is_meant_as_a_whole() {
        for text in [
            format!("shop.add[{ID}]"),
            ID.to_uppercase(),
            ID.replace('-', ""),
            format!("order-{ID}"),
            "'order 7'".to_owned(),
        ] {
            let asked = asked(&[&text], "").expect("an id");
            assert!(asked.is_open() && asked.all().contains(&text), "{text}");
            assert_eq!(
                asked.settle(&|id| id == text).ids,
                std::slice::from_ref(&text)
            );
        }
        let order = format!("order-{ID}");
        let asked = asked(&[&order], "").expect("an id");
        assert_eq!(asked.settle(&|_| false).ids, [order]);
        assert_eq!(asked.settle(&|id| id == ID).ids, [ID]);
    }

    proptest! {
        #[test]
        fn an_exact_id_is_never_mangled(id in "[^\\p{Cc}]{1,60}") {
            let exact = [id.clone()];
            let asked = Asked::read(&[], &exact, &b""[..]).expect("a legal id");
            prop_assert_eq!(asked.settle(&|_| false).ids, exact.to_vec());
            // And as an argument it is looked for as it stands, and wins where it is there.
            prop_assume!(id != "-");
            let asked = Asked::read(&exact, &[], &b""[..]).expect("a legal id");
            prop_assert!(asked.all().contains(&id));
            prop_assert_eq!(asked.settle(&|known| known == id).ids, exact.to_vec());
        }

        #[test]
        fn any_text_on_standard_input_is_taken_or_refused(text in any::<String>()) {
            if let Ok(asked) = asked(&["-"], &text) {
                let settled = asked.settle(&|_| false);
                prop_assert!(settled.ids.iter().all(|id| check_id(id, 1).is_ok()));
            }
        }
    }
}
