//! `celery multi`, which starts several workers with options for all, for some, or for one (Celery 5.7 `apps/multi.py`,
//! `NamespacedOptionParser` and `MultiParser`).

use super::Found;
use super::command::{Options, line, push};
use super::shell::{Dialect, Field, Variables, fields};
use super::text::Text;

/// More workers of one command are not told, nor more options taken.
const MOST: usize = 200;

/// An option with its value.
struct Given {
    option: Text,
    value: Option<Field>,
}

/// The words before and after `multi`.
pub(super) fn read(
    all: &[Field],
    before: &[Field],
    after: &[Field],
    variables: &Variables,
    found: &mut Found<'_>,
) {
    let whole = line(all);
    let Some((command, after)) = after.split_first() else {
        return;
    };
    if let Some(why) = &command.unknown {
        return found.unknown(&whole, why.clone());
    }
    if !matches!(command.as_str(), "start" | "restart") {
        return;
    }
    let words: Vec<&Field> = after.iter().chain(before).collect();
    // Names and options of the workers may stand in there.
    if let Some(why) = words
        .iter()
        .find(|word| word.loose)
        .and_then(|word| word.unknown.clone())
    {
        return found.unknown(&whole, why);
    }
    let cluster = Cluster::parse(&words);
    let nodes = match cluster.nodes() {
        Ok(nodes) => nodes,
        Err(why) => return found.unknown(&whole, why),
    };
    for (at, name) in nodes.iter().enumerate() {
        let mut options = Options::default();
        for given in cluster.options_of(at, name) {
            options.read(&given.words());
        }
        push(
            &options,
            Some(cluster.node_name(name)),
            &whole,
            variables,
            found,
        );
    }
}

#[derive(Default)]
struct Cluster {
    names: Vec<Field>,
    options: Vec<Given>,
    /// Options for some: `-Q:1-3`, `-c:image`; the scopes in the order in which they first stand there.
    scoped: Vec<(String, Vec<Given>)>,
}

impl Cluster {
    fn parse(words: &[&Field]) -> Self {
        let mut cluster = Self::default();
        let mut at = 0;
        while let Some(word) = words.get(at) {
            at += 1;
            let text = word.as_str();
            match text {
                "" | "--nosplash" | "--quiet" | "-q" | "--verbose" | "--no-color" | "-" => {}
                "--" => break,
                _ if text.starts_with("--") => {
                    let (option, value) = match word.text.split_once('=') {
                        Some((option, value)) => (option, Some(value)),
                        None => (word.text.clone(), None),
                    };
                    let value = value.map(|text| Field {
                        text,
                        ..(*word).clone()
                    });
                    cluster.add(option, value);
                }
                _ if text.starts_with('-') => {
                    let next = words.get(at).filter(|next| !next.as_str().starts_with('-'));
                    at += usize::from(next.is_some());
                    cluster.add(word.text.clone(), next.map(|next| (*next).clone()));
                }
                _ => cluster.names.push((*word).clone()),
            }
        }
        cluster
    }

    fn add(&mut self, option: Text, value: Option<Field>) {
        match option.split_once(':') {
            Some((option, scope)) => {
                let given = Given { option, value };
                let known = self
                    .scoped
                    .iter_mut()
                    .find(|(known, _)| known == scope.as_str());
                match known {
                    Some((_, all)) => all.push(given),
                    None => self.scoped.push((scope.as_str().to_owned(), vec![given])),
                }
            }
            None => self.options.push(Given { option, value }),
        }
    }

    /// A single number is how many there are; else these are their names.
    fn count(&self) -> Option<usize> {
        match self.names.as_slice() {
            [name] => name.as_str().trim().parse().ok(),
            _ => None,
        }
    }

    fn nodes(&self) -> Result<Vec<String>, String> {
        if let Some(why) = self.names.iter().find_map(|name| name.unknown.clone()) {
            return Err(why);
        }
        let count = self.count().unwrap_or(self.names.len());
        let scoped: usize = self.scoped.iter().map(|(_, given)| given.len()).sum();
        if count > MOST {
            return Err(format!("it starts more than {MOST} workers"));
        }
        if self.options.len() + scoped > MOST {
            return Err(format!("it has more than {MOST} options"));
        }
        Ok(match self.count() {
            Some(count) => (1..=count).map(|n| n.to_string()).collect(),
            None => self
                .names
                .iter()
                .map(|name| name.as_str().to_owned())
                .collect(),
        })
    }

    fn value(&self, names: &[&str]) -> Option<&str> {
        let given = self.options.iter().rev();
        let mut given = given.filter(|given| names.contains(&given.option.as_str()));
        let value = given.next()?.value.as_ref()?;
        value.unknown.is_none().then(|| value.as_str())
    }

    fn node_name(&self, name: &str) -> String {
        if name.contains('@') {
            return name.to_owned();
        }
        let prefix = match self.count() {
            Some(_) => self.value(&["--range-prefix"]).unwrap_or("celery"),
            None => self.value(&["--prefix"]).unwrap_or_default(),
        };
        let host = self
            .value(&["--suffix"])
            .or_else(|| self.value(&["--hostname", "-n"]));
        format!("{prefix}{name}@{}", host.unwrap_or("%h"))
    }

    /// The options of one worker, the later ones winning: those of its full name, where there are any, else those of its
    /// short name.
    fn options_of(&self, at: usize, name: &str) -> Vec<&Given> {
        let full = self.node_name(name);
        // What `%h` and the like stand for is not known, and no scope is called so.
        let of_full = if full.contains('%') {
            Vec::new()
        } else {
            self.scoped_to(&full, (full == name).then_some(at + 1))
        };
        let scoped = if of_full.is_empty() {
            let short = name.split('@').next().unwrap_or(name);
            self.scoped_to(short, (short == name).then_some(at + 1))
        } else {
            of_full
        };
        // As in a dictionary of Python, a later one takes the place of an earlier one.
        let mut options: Vec<&Given> = Vec::new();
        for given in self.options.iter().chain(scoped) {
            let name = given.option.as_str();
            match options
                .iter_mut()
                .find(|known| known.option.as_str() == name)
            {
                Some(known) => *known = given,
                None => options.push(given),
            }
        }
        options
    }

    /// The options for a name, and for a number where that stands for the name.
    fn scoped_to(&self, name: &str, number: Option<usize>) -> Vec<&Given> {
        let is = |scope: &str| scope == name;
        let is_number = |scope: &str| number.is_some() && scope.parse().ok() == number;
        let in_range = |scope: &str| match (scope.split_once('-'), number) {
            (Some((from, to)), Some(number)) => match (from.parse(), to.parse()) {
                (Ok(from), Ok(to)) => (from..=to).contains(&number),
                _ => false,
            },
            _ => is_number(scope),
        };
        let list = |scope: &str, holds: &dyn Fn(&str) -> bool| {
            scope.contains(',') && scope.split(',').any(holds)
        };
        let mut chosen = Vec::new();
        let mut choose = |holds: &dyn Fn(&str) -> bool| {
            let scoped = self.scoped.iter().filter(|(scope, _)| holds(scope));
            chosen.extend(scoped.flat_map(|(_, given)| given));
        };
        if self.count().is_some() {
            choose(&is);
            choose(&|scope| list(scope, &in_range) || (scope.contains('-') && in_range(scope)));
        } else {
            choose(&is);
            choose(&|scope| list(scope, &is));
            choose(&is_number);
            choose(&|scope| list(scope, &is_number));
        }
        chosen
    }
}

impl Given {
    /// The words that the worker gets, split once more as Celery does.
    fn words(&self) -> Vec<Field> {
        let Some(value) = &self.value else {
            return vec![Field::known(self.option.clone())];
        };
        if matches!(self.option.as_str(), "--cmd" | "--append") {
            return split(value);
        }
        if self.option.as_str().starts_with("--") {
            let mut text = self.option.clone();
            text.push('=', value.text.offset(0));
            text.append(&value.text);
            return split(&Field {
                text,
                ..value.clone()
            });
        }
        let mut words = vec![Field::known(self.option.clone())];
        words.extend(split(value));
        words
    }
}

fn split(field: &Field) -> Vec<Field> {
    if field.unknown.is_some() {
        return vec![field.clone()];
    }
    fields(&field.text, &Variables::default(), Dialect::Words)
}
