//! Warnings about settings with which the server may lose webhooks, and about nearly full memory.

use std::collections::BTreeSet;

use super::{memory, records::unavailable};
use crate::{redis::Connection, store::StoreError};

/// The settings that one node reports. A setting that it does not report causes no warning: managed
/// servers refuse `CONFIG` and have persistence of their own.
#[derive(Default)]
struct Node {
    policy: Option<String>,
    appendonly: Option<u8>,
    save: Option<String>,
    replicas: Option<u32>,
    min_replicas: Option<String>,
}

/// The warnings of all nodes, each once.
pub(super) async fn warnings(connection: &Connection) -> Result<Vec<String>, StoreError> {
    let (memory, persistence, replication) = tokio::try_join!(
        connection.info("memory"),
        connection.info("persistence"),
        connection.info("replication")
    )
    .map_err(unavailable)?;
    let (saves, min_replicas) =
        tokio::try_join!(connection.setting("save"), connection.setting("min-replicas-to-write"))
            .map_err(unavailable)?;
    let value = |settings: &[(String, String)], node: usize| {
        settings.get(node).map(|(_, value)| value.clone())
    };
    let mut warnings = BTreeSet::new();
    for (index, info) in memory.iter().enumerate() {
        let node = Node {
            policy: info.get("maxmemory_policy"),
            appendonly: persistence.get(index).and_then(|info| info.get("aof_enabled")),
            save: value(&saves, index),
            replicas: replication.get(index).and_then(|info| info.get("connected_slaves")),
            min_replicas: value(&min_replicas, index),
        };
        warnings.extend(judge(&node, connection.is_confirmed()));
        warnings.extend(memory::is_nearly_full(info).then(memory::warning));
    }
    Ok(warnings.into_iter().collect())
}

fn judge(node: &Node, is_confirmed: bool) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(policy) = node.policy.as_deref().filter(|policy| *policy != "noeviction") {
        warnings.push(format!(
            "maxmemory-policy is {policy}: a full memory evicts webhooks; set it to noeviction"
        ));
    }
    if node.appendonly == Some(0) && node.save.as_deref() == Some("") {
        warnings.push(
            "persistence is off: a restart of Redis loses every webhook; set appendonly to yes"
                .to_owned(),
        );
    }
    let has_replicas = node.replicas.is_some_and(|replicas| replicas > 0);
    if has_replicas && node.min_replicas.as_deref() == Some("0") && !is_confirmed {
        warnings.push(
            "min-replicas-to-write is 0: a replica that is promoted may lack webhooks that were \
             accepted; set it to 1 or more, and STATUS_REDIS_WAIT to 1 or more"
                .to_owned(),
        );
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::{Node, judge};

    fn node(policy: Option<&str>, appendonly: Option<u8>, save: Option<&str>) -> Node {
        Node {
            policy: policy.map(str::to_owned),
            appendonly,
            save: save.map(str::to_owned),
            ..Node::default()
        }
    }

    #[test]
    fn eviction_and_missing_persistence_are_told() {
        assert_eq!(judge(&node(Some("noeviction"), Some(1), Some("")), false), [""; 0]);
        assert_eq!(judge(&node(Some("noeviction"), Some(0), Some("3600 1")), false), [""; 0]);
        assert_eq!(
            judge(&node(Some("noeviction"), Some(0), None), false),
            [""; 0],
            "CONFIG was refused"
        );
        assert_eq!(judge(&node(None, None, None), false), [""; 0]);
        let [evicts, off] = &judge(&node(Some("allkeys-lru"), Some(0), Some("")), false)[..] else {
            panic!("two")
        };
        assert!(
            evicts.contains("maxmemory-policy is allkeys-lru")
                && off.contains("persistence is off")
        );
    }

    #[test]
    fn replicas_that_need_not_have_a_write_are_told_unless_writes_wait_for_them() {
        let node = |replicas, min: Option<&str>| Node {
            replicas: Some(replicas),
            min_replicas: min.map(str::to_owned),
            ..Node::default()
        };
        let [warning] = &judge(&node(1, Some("0")), false)[..] else { panic!("one") };
        assert!(warning.contains("min-replicas-to-write is 0"), "{warning}");
        assert_eq!(judge(&node(1, Some("0")), true), [""; 0], "STATUS_REDIS_WAIT is set");
        assert_eq!(judge(&node(1, Some("1")), false), [""; 0]);
        assert_eq!(judge(&node(0, Some("0")), false), [""; 0], "there is no replica");
        assert_eq!(judge(&node(1, None), false), [""; 0], "CONFIG was refused");
    }
}
