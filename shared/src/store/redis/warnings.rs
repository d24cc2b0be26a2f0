//! Settings of the server with which it may lose webhooks.

use std::collections::BTreeSet;

use super::records::unavailable;
use crate::{redis::Connection, store::StoreError};

/// Each sentence once, whichever of a cluster's nodes it is about.
pub(super) async fn warnings(connection: &Connection) -> Result<Vec<String>, StoreError> {
    let memory = connection.info("memory").await.map_err(unavailable)?;
    let persistence = connection.info("persistence").await.map_err(unavailable)?;
    // Managed servers refuse CONFIG; they then take snapshots by means of their own, or not, which nothing here tells.
    let saves = connection.setting("save").await.map_err(unavailable)?;
    let mut warnings = BTreeSet::new();
    for (node, memory) in memory.iter().enumerate() {
        let policy: Option<String> = memory.get("maxmemory_policy");
        let appendonly: Option<u8> = persistence.get(node).and_then(|info| info.get("aof_enabled"));
        warnings.extend(judge(policy.as_deref(), appendonly, saves.get(node).map(|(_, save)| save.as_str())));
    }
    Ok(warnings.into_iter().collect())
}

fn judge(policy: Option<&str>, appendonly: Option<u8>, save: Option<&str>) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(policy) = policy.filter(|policy| *policy != "noeviction") {
        warnings.push(format!("maxmemory-policy is {policy}: a full memory evicts webhooks; set it to noeviction"));
    }
    if appendonly == Some(0) && save == Some("") {
        warnings.push("persistence is off: a restart of Redis loses every webhook; set appendonly to yes".to_owned());
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::judge;

    #[test]
    fn eviction_and_missing_persistence_are_told() {
        assert_eq!(judge(Some("noeviction"), Some(1), Some("")), [""; 0]);
        assert_eq!(judge(Some("noeviction"), Some(0), Some("3600 1")), [""; 0]);
        assert_eq!(judge(Some("noeviction"), Some(0), None), [""; 0], "CONFIG was refused");
        assert_eq!(judge(None, None, None), [""; 0]);
        let [evicts, off] = &judge(Some("allkeys-lru"), Some(0), Some(""))[..] else { panic!("two") };
        assert!(evicts.contains("maxmemory-policy is allkeys-lru") && off.contains("persistence is off"));
    }
}
