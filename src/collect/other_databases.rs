//! A look into the other databases of a server, for what was lost in this one.

use std::collections::BTreeSet;
use std::time::Instant;

use super::broker::{Wanted, by_id};
use super::notes::line;
use super::rounds::Reading;
use crate::evidence::{Observed, Read, ReadStatus, Source, TaskEvidence};

impl Reading<'_> {
    /// Looks into the server's other databases, where an id was found nowhere, or waits where nobody answers.
    pub(super) async fn read_other_databases(&mut self) {
        let nobody = self.evidence.answered().is_empty() && self.panel.is_some();
        let lost = |task: &TaskEvidence| {
            task.copies.is_empty()
                && task.claims.is_empty()
                && !task
                    .result
                    .seen()
                    .is_some_and(|result| result.as_ref().is_some_and(|r| r.doc.ready))
        };
        let ids: BTreeSet<String> = self
            .evidence
            .tasks
            .iter()
            .filter(|(_, task)| lost(task))
            .map(|(id, _)| id.clone())
            .collect();
        if ids.is_empty() && !nobody {
            // No obstacle, hence no reason.
            self.replace_read(Read {
                source: Source::OtherDatabases,
                status: ReadStatus::Skipped,
                detail: "not needed: every id was found without them".to_owned(),
                elapsed_ms: 0,
                reason: None,
            });
            return;
        }
        let started = Instant::now();
        let mut wanted = Wanted::ids(ids);
        match self
            .broker
            .other_databases(&mut wanted, self.progress)
            .await
        {
            Ok((databases, copies)) => {
                let detail = format!("{} other databases", databases.len());
                self.replace_read(line(
                    Source::OtherDatabases,
                    started,
                    Ok((ReadStatus::Complete, detail)),
                ));
                self.evidence.other_databases = Observed::Seen(databases);
                for (id, copies) in by_id(copies) {
                    self.task(&id).copies.extend(copies);
                }
            }
            Err(why) => {
                self.replace_read(line(Source::OtherDatabases, started, Err(&why)));
                self.evidence.other_databases = Observed::Unseen(why);
            }
        }
    }
}
