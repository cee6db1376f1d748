//! Who holds what, by the workers' word, in memory that hardly grows with it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::{Value, json};

use super::audience::{listening, note_departed, take_in};
use super::counting::{Known, mark};
use super::mailbox::Voices;
use super::name::Name;
use super::workers::{GRACE, Panel};
use crate::celery::control::{self, Claim, ClaimState, Heard, Reply};
use crate::evidence::{Observed, Reason, Why};

/// More ids that several workers hold are not looked at again.
const MOST_SEVERAL: usize = 100;

/// Tasks that workers say they have.
#[derive(Debug, Default)]
pub(super) struct Holdings {
    by_id: HashMap<u64, Holding>,
    nodes: Vec<String>,
    /// Ids that more than one worker has, or that one has more than once.
    pub(super) several: BTreeSet<String>,
}

/// Who has a task.
#[derive(Debug, Clone, Copy)]
struct Holding {
    node: u32,
    state: ClaimState,
    redelivered: bool,
}

impl Holdings {
    /// The worker that has a task, its state there, and whether it was delivered before.
    pub(super) fn of(&self, id: &str) -> Option<(&str, ClaimState, bool)> {
        let holding = self.by_id.get(&mark(id))?;
        let node = self.nodes.get(usize::try_from(holding.node).ok()?)?;
        Some((node, holding.state, holding.redelivered))
    }

    /// Whether a worker has a task.
    pub(super) fn has(&self, id: &Name) -> bool {
        self.by_id.contains_key(&id.mark())
    }

    /// Takes over what a later look found.
    pub(super) fn add(&mut self, later: Self) {
        let first = self.nodes.len();
        self.nodes.extend(later.nodes);
        #[expect(
            clippy::iter_over_hash_type,
            reason = "each goes to a place of its own, in whatever order"
        )]
        for (id, holding) in later.by_id {
            let node = holding
                .node
                .saturating_add(u32::try_from(first).unwrap_or(u32::MAX));
            self.by_id.entry(id).or_insert(Holding { node, ..holding });
        }
        self.several.extend(later.several);
    }

    fn hold(&mut self, node: u32, claim: &Claim) {
        let holding = Holding {
            node,
            state: claim.state,
            redelivered: claim.redelivered,
        };
        // Each list of a worker has each run of a task once, and a task can't be met in two of them on its way.
        let id = mark(&claim.id);
        let is_known = self.by_id.contains_key(&id);
        self.by_id.entry(id).or_insert(holding);
        if is_known && self.several.len() < MOST_SEVERAL {
            self.several.insert(claim.id.clone());
        }
    }
}

/// What one worker said of its work; none where it did not answer that.
#[derive(Debug, Default)]
struct Word {
    active: Option<Result<Vec<Claim>, Why>>,
    reserved: Option<Result<u64, Why>>,
    scheduled: Option<Result<u64, Why>>,
    /// How often each question was answered.
    answers: BTreeMap<&'static str, u64>,
}

impl Panel {
    /// Asks what each worker has, and notes in [`Panel::workers`] how much that is. Who answers nothing any more has
    /// fallen silent.
    pub(super) async fn holdings(&mut self) -> Result<Holdings, Why> {
        let requests = [
            ("active", json!({"safe": true})),
            ("reserved", json!({})),
            ("scheduled", json!({})),
        ];
        let mut holdings = Holdings::default();
        for index in 0..self.mailboxes.len() {
            let prefix = self.mailboxes[index].0.clone();
            let (_, mailbox) = &self.mailboxes[index];
            let Some(known) = listening(&self.audiences, &prefix, mailbox) else {
                continue;
            };
            let mut words: BTreeMap<String, Word> = BTreeMap::new();
            let patience = self.timeout.max(GRACE);
            let receivers = mailbox
                .ask_each(&requests, patience, known, |method, heard| {
                    let Heard::Reply(Reply { node, answer, .. }) = heard else {
                        return;
                    };
                    let at = holdings.nodes.iter().position(|known| *known == node);
                    let at = at.unwrap_or_else(|| {
                        holdings.nodes.push(node.clone());
                        holdings.nodes.len() - 1
                    });
                    let at = u32::try_from(at).unwrap_or(u32::MAX);
                    let word = words.entry(node.clone()).or_default();
                    word.add(method, &node, &answer, |claim| holdings.hold(at, claim));
                })
                .await?;
            let voices: Voices = words
                .iter()
                .map(|(node, word)| (node.clone(), word.voices()))
                .collect();
            let received = mailbox.received(receivers.values().copied());
            let audience = take_in(&mut self.workers, &prefix, known, voices, received);
            note_departed(&mut self.workers, mailbox);
            self.audiences.insert(prefix.clone(), audience);
            self.note_words(&prefix, words);
        }
        Ok(holdings)
    }

    fn note_words(&mut self, prefix: &str, mut words: BTreeMap<String, Word>) {
        for worker in &mut self.workers.answered {
            if worker.prefix != prefix {
                continue;
            }
            let Some(word) = words.remove(&worker.node) else {
                continue;
            };
            let node = worker.node.clone();
            worker.active = observed(word.active, "active", &node);
            worker.reserved = observed(word.reserved, "reserved", &node);
            worker.scheduled = observed(word.scheduled, "scheduled", &node);
        }
    }

    /// Asks which ids each worker has revoked.
    pub(super) async fn revoked(&mut self, facts: &mut Known) -> Result<(), Why> {
        for (prefix, mailbox) in &self.mailboxes {
            let Some(known) = listening(&self.audiences, prefix, mailbox) else {
                continue;
            };
            let patience = self.timeout.max(GRACE);
            let requests = [("revoked", json!({}))];
            mailbox
                .ask_each(&requests, patience, known, |_, heard| {
                    let Heard::Reply(Reply { node, answer, .. }) = heard else {
                        return;
                    };
                    if !control::is_error(&answer) {
                        facts.revoke(&node, &control::decode_revoked(&answer));
                    }
                })
                .await?;
        }
        Ok(())
    }
}

fn observed<T>(said: Option<Result<T, Why>>, method: &str, node: &str) -> Observed<T> {
    match said {
        Some(Ok(word)) => Observed::Seen(word),
        Some(Err(why)) => Observed::Unseen(why),
        None => {
            let what = format!("{node} did not answer {method}");
            Observed::Unseen(Why::new(Reason::TimedOut, what))
        }
    }
}

impl Word {
    /// How many workers of this name answered.
    fn voices(&self) -> u64 {
        self.answers.values().copied().max().unwrap_or_default()
    }

    /// Takes an answer in. A second one, of a worker of the same name, is added to the first.
    fn add(
        &mut self,
        method: &'static str,
        node: &str,
        answer: &Value,
        mut hold: impl FnMut(&Claim),
    ) {
        *self.answers.entry(method).or_default() += 1;
        let failed = || {
            let what = format!("{node} failed to answer {method}");
            Why::new(Reason::Refused, what)
        };
        let is_error = control::is_error(answer);
        let mut count = |claims: Vec<Claim>, known: &mut Option<Result<u64, Why>>| {
            claims.iter().for_each(&mut hold);
            let claims = if is_error {
                Err(failed())
            } else {
                Ok(claims.len() as u64)
            };
            *known = Some(match (known.take(), claims) {
                (Some(Ok(first)), Ok(second)) => Ok(first + second),
                (Some(Err(why)), _) | (_, Err(why)) => Err(why),
                (None, Ok(claims)) => Ok(claims),
            });
        };
        match method {
            "active" => {
                let claims = control::decode_active(answer);
                claims.iter().for_each(&mut hold);
                self.active = Some(match self.active.take() {
                    _ if is_error => Err(failed()),
                    Some(Ok(mut first)) => {
                        first.extend(claims);
                        Ok(first)
                    }
                    Some(Err(why)) => Err(why),
                    None => Ok(claims),
                });
            }
            "reserved" => count(control::decode_reserved(answer), &mut self.reserved),
            _ => count(control::decode_scheduled(answer), &mut self.scheduled),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(word: &mut Word, holdings: &mut Holdings, method: &'static str, answer: &Value) {
        word.add(method, "w1", answer, |claim| holdings.hold(0, claim));
    }

    #[test]
    fn what_a_worker_has_is_counted_and_found_by_id() {
        let (mut word, mut holdings) = (Word::default(), Holdings::default());
        holdings.nodes.push("w1".to_owned());
        let request = |id: &str| json!({"id": id, "name": "shop.mail", "delivery_info": {"redelivered": true}});
        add(&mut word, &mut holdings, "active", &json!([request("a")]));
        add(
            &mut word,
            &mut holdings,
            "reserved",
            &json!([request("b"), request("c")]),
        );
        let eta =
            json!([{"eta": "2026-01-01T00:00:00+00:00", "priority": 6, "request": request("d")}]);
        add(&mut word, &mut holdings, "scheduled", &eta);
        assert_eq!(
            word.active.map(|active| active.map(|a| a.len())),
            Some(Ok(1))
        );
        assert_eq!((word.reserved, word.scheduled), (Some(Ok(2)), Some(Ok(1))));
        assert_eq!(holdings.of("c"), Some(("w1", ClaimState::Reserved, true)));
        assert_eq!(holdings.of("d"), Some(("w1", ClaimState::Scheduled, true)));
        assert_eq!(holdings.of("e"), None);
    }

    #[test]
    fn an_id_of_two_workers_is_told_and_a_failure_is_no_number() {
        let mut holdings = Holdings::default();
        let claims = control::decode_active(&json!([{"id": "a", "name": "shop.mail"}]));
        let mut alone = Holdings::default();
        alone.hold(0, &claims[0]);
        assert!(alone.several.is_empty());
        // In another process of the same worker it is another run.
        alone.hold(0, &claims[0]);
        assert_eq!(alone.several.len(), 1);
        holdings.hold(0, &claims[0]);
        holdings.hold(1, &claims[0]);
        assert_eq!(holdings.several, BTreeSet::from(["a".to_owned()]));
        let mut word = Word::default();
        add(
            &mut word,
            &mut holdings,
            "reserved",
            &json!({"error": "KeyError"}),
        );
        assert!(matches!(word.reserved, Some(Err(_))));
    }
}
