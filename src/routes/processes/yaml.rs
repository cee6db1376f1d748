//! YAML as a flat list of nodes, read from a stream of events: an alias is a reference to its node and never a copy, and
//! nothing is walked by recursion over what the file holds.

use std::collections::{BTreeMap, BTreeSet};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle};

use super::text::{File, Text};

/// More nodes of one file are not read.
const MOST: usize = 100_000;
/// Deeper nesting is not read.
const DEEPEST: usize = 100;

/// Lines of a block of text stand no further to the right than this, to be found.
const DEEPEST_INDENT: usize = 200;

/// A node's place in the list.
pub(super) type Id = usize;

#[derive(Clone, Debug)]
pub(super) enum Node {
    /// A text, and whether it stands plainly, without quotes.
    Scalar(Text, bool),
    List(Vec<Id>),
    /// Keys with their values, in order; each key once.
    Map(Vec<(Text, Id)>),
}

/// The documents of a file.
pub(super) struct Yaml {
    nodes: Vec<Node>,
    /// The root of each document.
    pub(super) documents: Vec<Id>,
}

/// Why a file can't be read, and where.
pub(super) struct Unread {
    pub(super) why: String,
    pub(super) at: usize,
}

/// What is being read.
enum Open {
    List(Vec<Id>, usize),
    Map(Vec<(Text, Id)>, Option<Text>, usize),
}

struct Builder<'a> {
    file: File<'a>,
    nodes: Vec<Node>,
    documents: Vec<Id>,
    anchors: BTreeMap<usize, Id>,
    open: Vec<Open>,
}

/// Reads all documents, or nothing.
pub(super) fn parse(file: File<'_>) -> Result<Yaml, Unread> {
    let mut builder = Builder {
        file,
        nodes: Vec::new(),
        documents: Vec::new(),
        anchors: BTreeMap::new(),
        open: Vec::new(),
    };
    let offsets = Offsets::new(file);
    for event in Parser::new_from_str(file.text) {
        match event {
            Ok((event, span)) => {
                let at = offsets.at(&span.start);
                let unread = |why: &str| Unread {
                    why: format!("the YAML {why}"),
                    at,
                };
                builder
                    .take(event, at, offsets.at(&span.end))
                    .map_err(unread)?;
                if builder.nodes.len() > MOST {
                    return Err(unread("is too large"));
                }
            }
            Err(error) => {
                return Err(Unread {
                    why: format!("the YAML can't be read: {}", error.info()),
                    at: offsets.at(error.marker()),
                });
            }
        }
    }
    Ok(Yaml {
        nodes: builder.nodes,
        documents: builder.documents,
    })
}

impl Builder<'_> {
    fn take(&mut self, event: Event<'_>, from: usize, to: usize) -> Result<(), &'static str> {
        match event {
            Event::Scalar(value, style, anchor, _) => {
                let text = self.scalar(&value, style, from, to);
                let id = self.add(Node::Scalar(text, style == ScalarStyle::Plain), anchor);
                self.place(id)
            }
            Event::SequenceStart(anchor, _) => self.start(Open::List(Vec::new(), anchor)),
            Event::MappingStart(anchor, _) => self.start(Open::Map(Vec::new(), None, anchor)),
            Event::SequenceEnd | Event::MappingEnd => {
                let (node, anchor) = match self.open.pop() {
                    Some(Open::List(items, anchor)) => (Node::List(items), anchor),
                    Some(Open::Map(entries, _, anchor)) => (Node::Map(entries), anchor),
                    None => return Ok(()),
                };
                let id = self.add(node, anchor);
                self.place(id)
            }
            // An anchor is set when its node has ended, so that nothing can hold itself.
            Event::Alias(anchor) => match self.anchors.get(&anchor).copied() {
                Some(id) => self.place(id),
                None => Err("refers to what it is part of"),
            },
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => Ok(()),
        }
    }

    fn start(&mut self, open: Open) -> Result<(), &'static str> {
        self.open.push(open);
        if self.open.len() > DEEPEST {
            return Err("is nested too deeply");
        }
        Ok(())
    }

    fn add(&mut self, node: Node, anchor: usize) -> Id {
        self.nodes.push(node);
        let id = self.nodes.len() - 1;
        if anchor > 0 {
            self.anchors.insert(anchor, id);
        }
        id
    }

    fn place(&mut self, id: Id) -> Result<(), &'static str> {
        match self.open.last_mut() {
            None => self.documents.push(id),
            Some(Open::List(items, _)) => items.push(id),
            Some(Open::Map(entries, key, _)) => match key.take() {
                Some(key) => entries.push((key, id)),
                None => match &self.nodes[id] {
                    Node::Scalar(text, _) => *key = Some(text.clone()),
                    Node::List(_) | Node::Map(_) => return Err("has a key that is no text"),
                },
            },
        }
        Ok(())
    }

    /// A scalar, each character at its place where it stands in the file as it is.
    fn scalar(&self, value: &str, style: ScalarStyle, from: usize, to: usize) -> Text {
        let source = self.file.text.get(from..to).unwrap_or_default();
        if matches!(style, ScalarStyle::Literal | ScalarStyle::Folded) {
            return by_lines(value, source, from);
        }
        match source.find(value) {
            Some(at) if !value.is_empty() => {
                Text::piece(self.file.text, from + at, from + at + value.len())
            }
            _ => Text::shown_at(value, from),
        }
    }
}

/// Finds the lines of a block of text in the file, each from where the one before ended.
fn by_lines(value: &str, source: &str, from: usize) -> Text {
    let mut text = Text::default();
    let mut at = 0;
    for line in value.split_inclusive('\n') {
        let plain = line.trim_end_matches('\n');
        // It follows soon, after its indentation; lines that were folded into one are found nowhere.
        let mut end = (at + plain.len() + DEEPEST_INDENT).min(source.len());
        while !source.is_char_boundary(end) {
            end += 1;
        }
        let here = source.get(at..end).unwrap_or_default();
        let start = here.find(plain).filter(|_| !plain.is_empty());
        let start = start.map_or(at, |found| at + found);
        for (offset, character) in line.char_indices() {
            text.push(character, from + start + offset.min(plain.len()));
        }
        at = (start + plain.len()).min(source.len());
        while !source.is_char_boundary(at) {
            at -= 1;
        }
    }
    text
}

/// Offsets in bytes of the parser's places, which are counted in characters.
struct Offsets {
    of_characters: Vec<usize>,
    end: usize,
}

impl Offsets {
    fn new(file: File<'_>) -> Self {
        let characters = file.text.char_indices();
        Self {
            of_characters: characters.map(|(at, _)| at).collect(),
            end: file.text.len(),
        }
    }

    fn at(&self, marker: &Marker) -> usize {
        let known = self.of_characters.get(marker.index());
        known.copied().unwrap_or(self.end)
    }
}

impl Yaml {
    pub(super) fn node(&self, id: Id) -> &Node {
        &self.nodes[id]
    }

    /// The value of a key, through `<<` where the map itself does not have it.
    pub(super) fn get(&self, id: Id, key: &str) -> Option<Id> {
        let mut waiting = vec![id];
        let mut seen = BTreeSet::new();
        while let Some(id) = waiting.pop() {
            if !seen.insert(id) {
                continue;
            }
            match self.node(id) {
                Node::Map(entries) => {
                    let own = entries.iter().rev().find(|(name, _)| name.as_str() == key);
                    if let Some((_, value)) = own {
                        return Some(*value);
                    }
                    let merged = entries.iter().filter(|(name, _)| name.as_str() == "<<");
                    waiting.extend(merged.rev().map(|(_, merged)| *merged));
                }
                // Of several merged maps the first wins.
                Node::List(items) => waiting.extend(items.iter().rev()),
                Node::Scalar(..) => {}
            }
        }
        None
    }

    /// A text that is a value of its own, no `null`.
    pub(super) fn text(&self, id: Id) -> Option<&Text> {
        match self.node(id) {
            Node::Scalar(text, plain) => {
                let null = *plain && matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL");
                (!null).then_some(text)
            }
            Node::List(_) | Node::Map(_) => None,
        }
    }

    pub(super) fn text_of(&self, id: Id, key: &str) -> Option<&Text> {
        self.text(self.get(id, key)?)
    }

    /// The items of a list.
    pub(super) fn items(&self, id: Id) -> &[Id] {
        match self.node(id) {
            Node::List(items) => items,
            Node::Scalar(..) | Node::Map(_) => &[],
        }
    }

    /// The entries of a map, those of merged ones after its own; a key that is there already is left out.
    pub(super) fn entries(&self, id: Id) -> Vec<(&Text, Id)> {
        let mut entries = Vec::new();
        let mut names = BTreeSet::new();
        let mut waiting = vec![id];
        let mut seen = BTreeSet::new();
        while let Some(id) = waiting.pop() {
            if !seen.insert(id) {
                continue;
            }
            match self.node(id) {
                Node::Map(own) => {
                    for (name, value) in own {
                        if name.as_str() != "<<" && names.insert(name.as_str()) {
                            entries.push((name, *value));
                        }
                    }
                    let merged = own.iter().filter(|(name, _)| name.as_str() == "<<");
                    waiting.extend(merged.rev().map(|(_, merged)| *merged));
                }
                Node::List(items) => waiting.extend(items.iter().rev()),
                Node::Scalar(..) => {}
            }
        }
        entries
    }

    /// A key that stands twice in one map, which YAML forbids and readers take differently.
    pub(super) fn twice(&self) -> Option<&Text> {
        let maps = self.nodes.iter().filter_map(|node| match node {
            Node::Map(entries) => Some(entries),
            Node::Scalar(..) | Node::List(_) => None,
        });
        maps.flat_map(|entries| {
            let mut names = BTreeSet::new();
            let twice = entries
                .iter()
                .filter(move |(name, _)| !names.insert(name.as_str()));
            twice.map(|(name, _)| name)
        })
        .find(|name| name.as_str() != "<<")
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }
}
