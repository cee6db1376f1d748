//! RabbitMQ for a lab: a virtual host of the shared node, or a node of its own.

use std::process::Child;
use std::sync::Arc;

use rustix::process::{Pid, Signal, kill_process_group};

use super::rabbit_node::{RabbitNode, Recipe, Vhost};
use super::{Certificates, Lab, SOON, free_port, wait_until};

/// A node of one test's own, which may be stopped and may have alarms.
pub struct PrivateRabbit {
    pub node: Arc<RabbitNode>,
    /// Where AMQP is spoken over TLS, and the management API.
    pub tls_ports: Option<(u16, u16)>,
    process: Child,
}

impl PrivateRabbit {
    /// The node dies at once, as by a power failure.
    pub fn kill(&self) {
        kill_process_group(self.group(), Signal::KILL).expect("the node's process group exists");
        wait_until("the node is gone", SOON, || {
            std::net::TcpStream::connect(("127.0.0.1", self.node.port))
                .is_err()
                .then_some(())
        });
    }

    /// The whole node hangs: its sockets stay open, and nothing answers.
    pub fn freeze(&self) {
        kill_process_group(self.group(), Signal::STOP).expect("the node's process group exists");
    }

    fn group(&self) -> Pid {
        Pid::from_child(&self.process)
    }

    pub fn thaw(&self) {
        kill_process_group(self.group(), Signal::CONT).expect("the node's process group exists");
    }
}

impl Lab {
    /// A virtual host of the node that all tests share.
    #[allow(
        clippy::unused_self,
        reason = "where a test finds its servers is not its business"
    )]
    pub fn rabbitmq(&self) -> Vhost {
        RabbitNode::shared().vhost()
    }

    /// A private node; `settings` are lines of its `rabbitmq.conf`. Takes many seconds.
    pub fn rabbitmq_node(&self, settings: &str) -> PrivateRabbit {
        self.private(Recipe::new(self.fresh_path("rabbitmq"), settings))
    }

    /// A second node in the cluster of a private one. Takes as long again.
    pub fn rabbitmq_beside(&self, first: &PrivateRabbit) -> PrivateRabbit {
        let recipe = Recipe::new(self.fresh_path("rabbitmq"), "");
        self.private(recipe.joining(&first.node))
    }

    fn private(&self, recipe: Recipe) -> PrivateRabbit {
        let log = self.folder().join("out.log");
        let process = self.start(&mut recipe.command(), &log, &log, ".ci/setup");
        PrivateRabbit {
            process,
            node: Arc::new(recipe.started(None)),
            tls_ports: None,
        }
    }

    /// A private node that also speaks TLS, on `tls_ports`. Client certificates are checked where they are sent.
    pub fn rabbitmq_tls(&self, certificates: &Certificates) -> PrivateRabbit {
        let (amqps, https) = (free_port(), free_port());
        let [ca, cert, key] =
            [&certificates.ca, &certificates.cert, &certificates.key].map(|file| file.display());
        let settings = format!(
            "listeners.ssl.1 = 127.0.0.1:{amqps}\n\
             ssl_options.cacertfile = {ca}\n\
             ssl_options.certfile = {cert}\n\
             ssl_options.keyfile = {key}\n\
             ssl_options.verify = verify_peer\n\
             ssl_options.fail_if_no_peer_cert = false\n\
             management.ssl.ip = 127.0.0.1\n\
             management.ssl.port = {https}\n\
             management.ssl.cacertfile = {ca}\n\
             management.ssl.certfile = {cert}\n\
             management.ssl.keyfile = {key}\n"
        );
        let node = self.rabbitmq_node(&settings);
        PrivateRabbit {
            tls_ports: Some((amqps, https)),
            ..node
        }
    }
}
