//! A Redis Cluster of three servers with a third of the slots each.

use std::time::{Duration, Instant};

use redis::{Connection, RedisResult, cmd};

use super::{MAX_TRIES, POLL_INTERVAL, RedisServer, RedisServerError};
use crate::process::free_ports;

/// The number of primary nodes.
const NODES: usize = 3;

/// The number of slots of a cluster.
const SLOTS: usize = 16_384;

/// The time limit until the nodes agree on the state of the cluster.
const AGREE_BOUND: Duration = Duration::from_secs(30);

/// A running cluster. Dropping it kills its nodes.
#[derive(Debug)]
pub struct RedisCluster {
    nodes: Vec<RedisServer>,
}

impl RedisCluster {
    /// Starts a cluster that writes nothing to disk.
    pub fn start() -> Result<Self, RedisServerError> {
        Self::with(&["--save", "", "--appendonly", "no"])
    }

    /// Starts a cluster that writes every change to disk before it responds, so that nodes survive
    /// a kill.
    pub fn durable() -> Result<Self, RedisServerError> {
        Self::with(&["--save", "", "--appendonly", "yes", "--appendfsync", "always"])
    }

    /// Starts a cluster with a replica of each primary. The replicas are the last three nodes.
    pub fn with_replicas() -> Result<Self, RedisServerError> {
        let mut cluster = Self::start()?;
        for index in 0..NODES {
            let replica = node(&["--save", "", "--appendonly", "no"])?;
            let first = &cluster.nodes[0];
            let mut meet = cmd("CLUSTER");
            meet.arg("MEET").arg("127.0.0.1").arg(first.port()).arg(first.bus_port());
            replica.command::<()>(0, &meet).map_err(RedisServerError::Start)?;
            cluster.nodes.push(replica);
            cluster.wait_until_agreed()?;
            let id: String = cluster.nodes[index]
                .command(0, cmd("CLUSTER").arg("MYID"))
                .map_err(RedisServerError::Start)?;
            let replica = &cluster.nodes[NODES + index];
            replica
                .command::<()>(0, cmd("CLUSTER").arg("REPLICATE").arg(id))
                .map_err(RedisServerError::Start)?;
            let is_up = |info: &redis::InfoDict| {
                info.get::<String>("master_link_status").as_deref() == Some("up")
            };
            replica.wait_until(is_up).map_err(RedisServerError::Start)?;
        }
        Ok(cluster)
    }

    fn with(arguments: &[&str]) -> Result<Self, RedisServerError> {
        let nodes = (0..NODES).map(|_| node(arguments)).collect::<Result<Vec<_>, _>>()?;
        let cluster = Self { nodes };
        cluster.join().map_err(|error| {
            RedisServerError::Start(format!("cannot create the cluster: {error}"))
        })?;
        cluster.wait_until_agreed()?;
        Ok(cluster)
    }

    /// The nodes.
    pub fn nodes(&self) -> &[RedisServer] {
        &self.nodes
    }

    /// The nodes, to kill and restart them.
    pub fn nodes_mut(&mut self) -> &mut [RedisServer] {
        &mut self.nodes
    }

    /// The URL, with the first two nodes.
    pub fn url(&self) -> String {
        format!(
            "redis+cluster://127.0.0.1:{},127.0.0.1:{}",
            self.nodes[0].port(),
            self.nodes[1].port()
        )
    }

    /// A connection to each node, without cluster redirects.
    pub fn connections(&self) -> RedisResult<Vec<Connection>> {
        self.nodes.iter().map(|node| redis::Client::open(node.url(0))?.get_connection()).collect()
    }

    fn join(&self) -> RedisResult<()> {
        let mut connections = self.connections()?;
        for (index, connection) in connections.iter_mut().enumerate() {
            cmd("CLUSTER").arg("SET-CONFIG-EPOCH").arg(index + 1).query::<()>(connection)?;
            let (first, end) = (index * SLOTS / NODES, (index + 1) * SLOTS / NODES);
            cmd("CLUSTER").arg("ADDSLOTSRANGE").arg(first).arg(end - 1).query::<()>(connection)?;
        }
        for node in &self.nodes[1..] {
            let mut meet = cmd("CLUSTER");
            meet.arg("MEET").arg("127.0.0.1").arg(node.port()).arg(node.bus_port());
            meet.query::<()>(&mut connections[0])?;
        }
        Ok(())
    }

    /// Waits until every node knows all nodes and the owners of all slots.
    pub fn wait_until_agreed(&self) -> Result<(), RedisServerError> {
        let started = Instant::now();
        let agrees = |connection: &mut Connection| -> RedisResult<bool> {
            let info: String = cmd("CLUSTER").arg("INFO").query(connection)?;
            let has = |line: String| info.lines().any(|found| found == line);
            Ok(has("cluster_state:ok".into())
                && has(format!("cluster_known_nodes:{}", self.nodes.len()))
                && has(format!("cluster_size:{NODES}")))
        };
        loop {
            let found = self
                .connections()
                .and_then(|mut all| all.iter_mut().map(agrees).collect::<RedisResult<Vec<bool>>>());
            match found {
                Ok(all) if all.iter().all(|one| *one) => return Ok(()),
                found if started.elapsed() > AGREE_BOUND => {
                    return Err(RedisServerError::Start(format!(
                        "the nodes do not agree within {AGREE_BOUND:?}: {found:?}"
                    )));
                }
                _ => std::thread::sleep(POLL_INTERVAL),
            }
        }
    }
}

/// Starts a node. The default port of the cluster bus is the main port plus 10,000, which may not
/// exist, so it gets another one.
fn node(arguments: &[&str]) -> Result<RedisServer, RedisServerError> {
    let mut problem = RedisServerError::Start("it was not tried".to_owned());
    for _ in 0..MAX_TRIES {
        let [bus] = free_ports()?;
        let cluster = [
            "--cluster-enabled",
            "yes",
            "--cluster-node-timeout",
            "5000",
            "--cluster-port",
            &bus.to_string(),
        ];
        match RedisServer::with(&[arguments, &cluster].concat()) {
            Ok(mut server) => {
                server.bus_port = bus;
                return Ok(server);
            }
            Err(error @ RedisServerError::Missing) => return Err(error),
            Err(error) => problem = error,
        }
    }
    Err(problem)
}
