//! A picture of routing, tasks to the left and workers to the right, as Mermaid or as Graphviz's DOT. What is dropped or
//! never consumed is marked.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{self, Write};

use super::plain::readable;

/// What a node stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum NodeKind {
    /// A task's name.
    Task,
    /// An exchange.
    Exchange,
    /// A queue.
    Queue,
    /// A worker.
    Worker,
}

/// A node of this graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NodeId(usize);

#[derive(Debug)]
struct Node {
    kind: NodeKind,
    name: String,
    detail: String,
    black_hole: bool,
}

/// What is drawn. The picture is the same however it was put together.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    nodes: Vec<Node>,
    ids: BTreeMap<(NodeKind, String), NodeId>,
    edges: BTreeSet<(NodeId, NodeId, String)>,
}

/// The two languages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Language {
    /// Mermaid's flowchart, which GitHub and GitLab draw in Markdown.
    Mermaid,
    /// Graphviz's DOT.
    Dot,
}

impl Graph {
    /// The node of this kind and name, new where there is none yet.
    pub(crate) fn node(&mut self, kind: NodeKind, name: &str) -> NodeId {
        let id = NodeId(self.nodes.len());
        let known = self.ids.entry((kind, name.to_owned())).or_insert(id);
        if *known == id {
            self.nodes.push(Node {
                kind,
                name: name.to_owned(),
                detail: String::new(),
                black_hole: false,
            });
        }
        *known
    }

    /// Says more of a node, such as an exchange's type.
    pub(crate) fn detail(&mut self, node: NodeId, detail: &str) {
        detail.clone_into(&mut self.nodes[node.0].detail);
    }

    /// Marks a node whose messages nobody gets.
    pub(crate) fn black_hole(&mut self, node: NodeId) {
        self.nodes[node.0].black_hole = true;
    }

    /// Messages go from here to there, by this routing key or pattern.
    pub(crate) fn edge(&mut self, from: NodeId, to: NodeId, key: &str) {
        self.edges.insert((from, to, key.to_owned()));
    }

    /// Writes the picture.
    pub(crate) fn write(&self, language: Language, out: &mut dyn Write) -> io::Result<()> {
        // Numbered by kind and name, so that the order in which it was put together does not show.
        let mut numbers = vec![0; self.nodes.len()];
        let sorted: Vec<&Node> = self.ids.values().map(|id| &self.nodes[id.0]).collect();
        for (number, id) in self.ids.values().enumerate() {
            numbers[id.0] = number;
        }
        let edges = self.edges.iter();
        let edges: BTreeSet<(usize, usize, &str)> = edges
            .map(|(from, to, key)| (numbers[from.0], numbers[to.0], key.as_str()))
            .collect();
        match language {
            Language::Mermaid => mermaid(&sorted, &edges, out),
            Language::Dot => dot(&sorted, &edges, out),
        }
    }
}

/// What is written in a node: its name, and what there is more.
fn lines(node: &Node) -> Vec<&str> {
    let name = if node.name.is_empty() {
        match node.kind {
            NodeKind::Exchange => "(default exchange)",
            NodeKind::Task | NodeKind::Queue | NodeKind::Worker => "''",
        }
    } else {
        node.name.as_str()
    };
    let mut lines = vec![name];
    if !node.detail.is_empty() {
        lines.push(&node.detail);
    }
    if node.black_hole {
        lines.push("BLACK HOLE");
    }
    lines
}

fn mermaid(
    nodes: &[&Node],
    edges: &BTreeSet<(usize, usize, &str)>,
    out: &mut dyn Write,
) -> io::Result<()> {
    writeln!(out, "flowchart LR")?;
    for (number, node) in nodes.iter().enumerate() {
        let (open, close) = match node.kind {
            NodeKind::Task => ("([", "])"),
            NodeKind::Exchange => ("{{", "}}"),
            NodeKind::Queue => ("[(", ")]"),
            NodeKind::Worker => ("[", "]"),
        };
        let lines: Vec<String> = lines(node).into_iter().map(mermaid_text).collect();
        let mark = if node.black_hole { ":::blackHole" } else { "" };
        writeln!(
            out,
            "  n{number}{open}\"{}\"{close}{mark}",
            lines.join("<br/>")
        )?;
    }
    for (from, to, key) in edges {
        if key.is_empty() {
            writeln!(out, "  n{from} --> n{to}")?;
        } else {
            writeln!(out, "  n{from} -->|\"{}\"| n{to}", mermaid_text(key))?;
        }
    }
    writeln!(
        out,
        "  classDef blackHole fill:#fdd,stroke:#c00,stroke-width:3px,color:#000"
    )
}

/// Text between Mermaid's quotes. All that its grammar, Markdown or HTML could take for something else stands as its number.
fn mermaid_text(text: &str) -> String {
    let mut safe = String::new();
    for character in readable(text).chars() {
        if character.is_alphanumeric() || matches!(character, ' ' | '_' | '/' | ',') {
            safe.push(character);
        } else {
            // Writing to a String cannot fail.
            _ = fmt::Write::write_fmt(&mut safe, format_args!("#{};", u32::from(character)));
        }
    }
    safe
}

fn dot(
    nodes: &[&Node],
    edges: &BTreeSet<(usize, usize, &str)>,
    out: &mut dyn Write,
) -> io::Result<()> {
    writeln!(out, "digraph routes {{")?;
    writeln!(out, "  rankdir=LR;")?;
    for (number, node) in nodes.iter().enumerate() {
        let shape = match node.kind {
            NodeKind::Task => "oval",
            NodeKind::Exchange => "hexagon",
            NodeKind::Queue => "cylinder",
            NodeKind::Worker => "box",
        };
        let lines: Vec<String> = lines(node).into_iter().map(dot_text).collect();
        let mark = if node.black_hole {
            ", color=\"#cc0000\", penwidth=3, style=filled, fillcolor=\"#ffdddd\""
        } else {
            ""
        };
        writeln!(
            out,
            "  n{number} [shape={shape}, label=\"{}\"{mark}];",
            lines.join("\\n")
        )?;
    }
    for (from, to, key) in edges {
        if key.is_empty() {
            writeln!(out, "  n{from} -> n{to};")?;
        } else {
            writeln!(out, "  n{from} -> n{to} [label=\"{}\"];", dot_text(key))?;
        }
    }
    writeln!(out, "}}")
}

/// Text between DOT's quotes, in which a backslash starts an escape and `&` an entity of HTML.
fn dot_text(text: &str) -> String {
    readable(text)
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('&', "&amp;")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn drawn(graph: &Graph, language: Language) -> String {
        let mut out = Vec::new();
        graph.write(language, &mut out).expect("a Vec takes all");
        String::from_utf8(out).expect("text")
    }

    fn shop() -> Graph {
        let mut graph = Graph::default();
        let mail = graph.node(NodeKind::Task, "shop.send_mail");
        let report = graph.node(NodeKind::Task, "shop.report");
        let tasks = graph.node(NodeKind::Exchange, "tasks");
        let default = graph.node(NodeKind::Exchange, "");
        let queue = graph.node(NodeKind::Queue, "mail");
        let lost = graph.node(NodeKind::Queue, "reports");
        let worker = graph.node(NodeKind::Worker, "Procfile:2 celery -A shop worker");
        graph.detail(tasks, "topic");
        graph.edge(mail, tasks, "mail.new");
        graph.edge(tasks, queue, "mail.#");
        graph.edge(report, default, "reports");
        graph.edge(default, lost, "reports");
        graph.edge(queue, worker, "");
        graph.black_hole(lost);
        graph
    }

    /// Names that could end a text, start another language, or turn around what follows.
    const NASTY: [&str; 14] = [
        "a\"b",
        "a\\",
        "\\N",
        "\\",
        "end",
        "a]b)c}",
        "<b>x</b>",
        "&lt;&amp;",
        "`md`",
        "1. one",
        "- two",
        "a\nb\u{202e}c\x1b[1m",
        "#35;",
        "%% comment --> |x|",
    ];

    fn nasty() -> Graph {
        let mut graph = Graph::default();
        let queue = graph.node(NodeKind::Queue, "");
        for name in NASTY {
            let node = graph.node(NodeKind::Exchange, name);
            graph.detail(node, name);
            graph.edge(node, queue, name);
        }
        graph
    }

    #[test]
    fn a_picture_in_mermaid() {
        insta::assert_snapshot!(drawn(&shop(), Language::Mermaid));
    }

    #[test]
    fn a_picture_in_dot() {
        insta::assert_snapshot!(drawn(&shop(), Language::Dot));
    }

    #[test]
    fn nasty_names_in_mermaid() {
        insta::assert_snapshot!(drawn(&nasty(), Language::Mermaid));
    }

    #[test]
    fn nasty_names_in_dot() {
        insta::assert_snapshot!(drawn(&nasty(), Language::Dot));
    }

    #[test]
    fn the_order_of_putting_together_does_not_show() {
        let mut one = Graph::default();
        let (a, b) = (
            one.node(NodeKind::Queue, "a"),
            one.node(NodeKind::Queue, "b"),
        );
        one.edge(a, b, "k");
        let mut two = Graph::default();
        let (b, a) = (
            two.node(NodeKind::Queue, "b"),
            two.node(NodeKind::Queue, "a"),
        );
        two.edge(a, b, "k");
        two.edge(a, b, "k");
        assert_eq!(two.node(NodeKind::Queue, "b"), b);
        for language in [Language::Mermaid, Language::Dot] {
            assert_eq!(drawn(&one, language), drawn(&two, language));
        }
    }

    proptest! {
        /// Whatever the names are, the lines and their marks stay as they are.
        #[test]
        fn names_never_leave_their_quotes(name in "\\PC{0,30}|[\"\\\\\n\r`#;|<>&\\[\\](){}%-]{0,10}") {
            let draw = |name: &str, language| {
                let mut graph = Graph::default();
                let from = graph.node(NodeKind::Task, name);
                let to = graph.node(NodeKind::Queue, "q");
                graph.edge(from, to, name);
                drawn(&graph, language)
            };
            let mermaid = draw(&name, Language::Mermaid);
            prop_assert_eq!(mermaid.lines().count(), 5);
            let quotes = mermaid.matches('"').count();
            prop_assert_eq!(quotes, if name.is_empty() { 4 } else { 6 });
            let dot = draw(&name, Language::Dot);
            prop_assert_eq!(dot.lines().count(), 6);
            let unescaped = dot.replace("\\\\", "").replace("\\\"", "");
            prop_assert_eq!(unescaped.matches('"').count(), if name.is_empty() { 4 } else { 6 });
        }
    }
}
