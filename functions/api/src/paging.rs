//! Pages of a list: at most `page_size` items and at most [`MAX_LIST_BYTES`].
//!
//! A Lambda response has at most 6 MB. Its body is a JSON string, in which each quotation mark and
//! each backslash takes two bytes. So a list of half that size always fits. A page that would be
//! larger ends earlier, and `next_cursor` continues after its last item. Page numbers count these
//! pages: page 2 starts where page 1 ends.

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use crate::problem::Problem;

/// The JSON of all items of a page: 2.5 MiB.
pub(crate) const MAX_LIST_BYTES: usize = 5 * 512 * 1024;

/// The webhooks that are read from the store at a time.
pub(crate) const MAX_CHUNK: usize = 100;

/// Assigns items to pages, and keeps the items of one page.
#[derive(Debug)]
pub(crate) struct Pages<P> {
    page_size: usize,
    /// The pages that are still to be skipped.
    to_skip: usize,
    count: usize,
    bytes: usize,
    items: Vec<Box<RawValue>>,
    last: Option<P>,
}

/// Where an item belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Placed {
    /// On the requested page, or on one before it.
    Yes,
    /// After the requested page.
    Beyond,
}

impl<P: Clone> Pages<P> {
    /// The page after `to_skip` others.
    pub(crate) fn new(page_size: usize, to_skip: usize) -> Self {
        Self { page_size, to_skip, count: 0, bytes: 0, items: Vec::new(), last: None }
    }

    /// Adds the next item, whose position in the list is `position`.
    pub(crate) fn add(&mut self, item: &impl Serialize, position: P) -> Result<Placed, Problem> {
        let json = to_raw_value(item).map_err(|error| Problem::internal().because(error))?;
        let length = json.get().len();
        // A page has at least one item. No item is nearly as large as a page.
        let is_full = self.count == self.page_size
            || (self.count > 0 && self.bytes + length > MAX_LIST_BYTES);
        if is_full {
            if self.to_skip == 0 {
                return Ok(Placed::Beyond);
            }
            self.to_skip -= 1;
            (self.count, self.bytes) = (0, 0);
        }
        self.count += 1;
        self.bytes += length;
        self.last = Some(position);
        if self.to_skip == 0 {
            self.items.push(json);
        }
        Ok(Placed::Yes)
    }

    /// How many more items fit on the requested page and on the pages before it.
    pub(crate) fn missing(&self) -> usize {
        (self.to_skip + 1) * self.page_size - self.count
    }

    /// The position of the last item that was added.
    pub(crate) fn last(&self) -> Option<P> {
        self.last.clone()
    }

    /// The items of the requested page.
    pub(crate) fn into_items(self) -> Vec<Box<RawValue>> {
        self.items
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The requested page of items with these lengths, and the index at which the next page starts.
    fn page(lengths: &[usize], page_size: usize, to_skip: usize) -> (Vec<usize>, Option<usize>) {
        let mut pages = Pages::new(page_size, to_skip);
        for (index, length) in lengths.iter().enumerate() {
            if pages.add(&"x".repeat(length - 2), index).unwrap() == Placed::Beyond {
                let next = pages.last().map(|last| last + 1);
                return (pages.into_items().iter().map(|item| item.get().len()).collect(), next);
            }
        }
        (pages.into_items().iter().map(|item| item.get().len()).collect(), None)
    }

    #[test]
    fn pages_end_by_their_number_of_items_or_by_their_bytes() {
        let half = MAX_LIST_BYTES / 2;
        let lengths = [10, 11, 12, half, half, half, 20, 21];
        let mut shown = Vec::new();
        let mut begins = Some(0);
        for number in 0.. {
            let (by_number, _) = page(&lengths, 3, number);
            let Some(begin) = begins else {
                assert!(by_number.is_empty());
                break;
            };
            let (by_cursor, next) = page(&lengths[begin..], 3, 0);
            assert_eq!(by_number, by_cursor, "page {number}");
            assert!(by_number.len() <= 3 && by_number.iter().sum::<usize>() <= MAX_LIST_BYTES);
            shown.extend(by_number);
            begins = next.map(|next| begin + next);
        }
        assert_eq!(shown, lengths, "each item is on one page");
    }

    #[test]
    fn an_item_that_is_too_long_has_its_own_page() {
        let lengths = [10, MAX_LIST_BYTES + 1, 10];
        for (number, shown) in lengths.into_iter().enumerate() {
            assert_eq!(page(&lengths, 3, number).0, [shown], "by number");
            assert_eq!(page(&lengths[number..], 3, 0).0, [shown], "by cursor");
        }
    }
}
