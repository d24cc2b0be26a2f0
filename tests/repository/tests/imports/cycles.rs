//! Finds a cycle in a graph.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// The edges of each node.
pub(crate) type Graph = BTreeMap<String, BTreeSet<String>>;

/// A shortest cycle of the graph, with its first node once more at the end.
pub(crate) fn cycle(graph: &Graph) -> Option<Vec<String>> {
    graph.keys().filter_map(|node| cycle_through(graph, node)).min_by_key(Vec::len)
}

/// A shortest cycle through this node.
fn cycle_through(graph: &Graph, start: &String) -> Option<Vec<String>> {
    let mut before: BTreeMap<&String, &String> = BTreeMap::new();
    let mut queue = VecDeque::from([start]);
    while let Some(node) = queue.pop_front() {
        for next in graph.get(node).into_iter().flatten() {
            if next == start {
                let mut nodes = vec![start.clone()];
                let mut at = node;
                while at != start {
                    nodes.push(at.clone());
                    at = before[at];
                }
                nodes.push(start.clone());
                nodes.reverse();
                return Some(nodes);
            }
            if next != start && !before.contains_key(next) {
                before.insert(next, node);
                queue.push_back(next);
            }
        }
    }
    None
}
