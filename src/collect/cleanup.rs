//! What was written for replies is taken away on every way out, and connections to RabbitMQ are closed in good order.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::cmd;

use super::rabbitmq::amqp::Link;
use super::redis::client::Client;
use crate::celery::control::{REPLY_BINDINGS, reply_list};
use crate::config::url::RedisServer;
use crate::evidence::{Reason, Why};

/// A worker that answers late looks the reply queue up before it pushes. So long after the binding is gone no such
/// push can come any more.
const LATE: Duration = Duration::from_millis(100);

/// The reply addresses that were announced and are not yet taken away, and the AMQP connections that are open. With
/// such a connection goes all that it had: reply queues, consumers, and messages that were looked at.
#[derive(Clone, Default)]
pub(crate) struct Cleanup {
    open: Arc<Mutex<Vec<Address>>>,
    links: Arc<Mutex<Vec<Arc<Link>>>>,
}

/// A reply address, with the connection over which it was announced: what is sent there next comes after the
/// announcement, whatever became of that.
#[derive(Clone)]
pub(crate) struct Address {
    client: Arc<Client>,
    server: RedisServer,
    prefix: String,
    oid: String,
    binding: String,
}

impl Cleanup {
    /// Notes an address that is about to be announced.
    pub(crate) fn announce(
        &self,
        client: &Arc<Client>,
        server: &RedisServer,
        prefix: &str,
        oid: &str,
        binding: &str,
    ) {
        let address = Address {
            client: Arc::clone(client),
            server: server.clone(),
            prefix: prefix.to_owned(),
            oid: oid.to_owned(),
            binding: binding.to_owned(),
        };
        self.addresses().push(address);
    }

    /// Forgets an address whose announcement the server refused: there is nothing to take away.
    pub(crate) fn withdraw(&self, oid: &str) {
        self.addresses().retain(|address| address.oid != oid);
    }

    /// Notes a connection that is to be closed at the end.
    pub(crate) fn hold(&self, link: &Arc<Link>) {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.push(Arc::clone(link));
    }

    /// Closes the connections, one beside the other.
    async fn close_links(&self) {
        let links = std::mem::take(&mut *self.links.lock().unwrap_or_else(PoisonError::into_inner));
        let mut closing = tokio::task::JoinSet::new();
        for link in links {
            closing.spawn(async move { link.close().await });
        }
        closing.join_all().await;
    }

    /// Takes every address away: first the binding, so that no worker finds it any more, then what has come in.
    ///
    /// `late` says that answers may still be on their way.
    ///
    /// # Errors
    /// The addresses that could not be taken away, as commands that do it by hand, and why.
    pub(crate) async fn run(&self, late: bool) -> Result<(), Leftover> {
        self.close_links().await;
        let mut open = std::mem::take(&mut *self.addresses());
        if open.is_empty() {
            return Ok(());
        }
        let mut failed = None;
        for address in &mut open {
            let mut outcome = address.unbind().await;
            if matches!(&outcome, Err(why) if why.reason == Reason::Unreachable) {
                // The connection broke; the server may be there still.
                outcome = address.unbind_anew().await;
            }
            if let Err(why) = outcome {
                failed = Some(why);
            }
        }
        if late {
            tokio::time::sleep(LATE).await;
        }
        for address in &open {
            if let Err(why) = address.delete().await {
                failed = Some(why);
            }
        }
        match failed {
            None => Ok(()),
            Some(why) => Err(Leftover {
                commands: open.iter().flat_map(Address::by_hand).collect(),
                why,
            }),
        }
    }

    fn addresses(&self) -> std::sync::MutexGuard<'_, Vec<Address>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reply addresses that stayed behind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the reply address could not be removed: {}; by hand: {}", why.detail, commands.join("; "))]
pub(crate) struct Leftover {
    /// redis-cli commands that remove them.
    pub commands: Vec<String>,
    /// What went wrong.
    pub why: Why,
}

impl Address {
    fn bindings(&self) -> String {
        format!("{}{REPLY_BINDINGS}", self.prefix)
    }

    fn list(&self) -> String {
        format!("{}{}", self.prefix, reply_list(&self.oid))
    }

    async fn unbind(&self) -> Result<(), Why> {
        let mut command = cmd("SREM");
        command.arg(self.bindings()).arg(&self.binding);
        self.client.ask(&command).await
    }

    async fn unbind_anew(&mut self) -> Result<(), Why> {
        self.client = Arc::new(Client::connect(&self.server, self.server.db).await?);
        self.unbind().await
    }

    async fn delete(&self) -> Result<(), Why> {
        self.client.ask(cmd("DEL").arg(self.list())).await
    }

    fn by_hand(&self) -> [String; 2] {
        let member = self.binding.as_bytes().escape_ascii();
        [
            format!("redis-cli SREM {} \"{member}\"", self.bindings()),
            format!("redis-cli DEL {}", self.list()),
        ]
    }
}
