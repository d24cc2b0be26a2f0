//! The paths that code names, also within macros.

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use quote::ToTokens;
use syn::Item;

/// A path as it is written, one identifier after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named(pub(crate) Vec<String>);

/// The paths of at least two identifiers in an item.
pub(crate) fn named(item: &Item) -> Vec<Named> {
    let mut found = Vec::new();
    scan(item.to_token_stream(), &mut found);
    found
}

fn scan(tokens: TokenStream, found: &mut Vec<Named>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut at = 0;
    while at < tokens.len() {
        match &tokens[at] {
            TokenTree::Ident(_) => {
                let (path, next) = path(&tokens, at);
                // `use` within a function: a tree may follow the path.
                if let Some(TokenTree::Group(group)) = tokens.get(next)
                    && group.delimiter() == Delimiter::Brace
                    && is_separator(&tokens, next.saturating_sub(2))
                {
                    branches(&path, group.stream(), found);
                    at = next + 1;
                    continue;
                }
                if path.len() > 1 {
                    found.push(Named(path));
                }
                at = next;
            }
            TokenTree::Group(group) => {
                scan(group.stream(), found);
                at += 1;
            }
            _ => at += 1,
        }
    }
}

/// The path that begins here, and where it ends.
fn path(tokens: &[TokenTree], mut at: usize) -> (Vec<String>, usize) {
    let mut path = Vec::new();
    while let Some(TokenTree::Ident(part)) = tokens.get(at) {
        path.push(part.to_string());
        at += 1;
        if !is_separator(tokens, at) {
            return (path, at);
        }
        at += 2;
    }
    (path, at)
}

/// Whether `::` stands here.
fn is_separator(tokens: &[TokenTree], at: usize) -> bool {
    let colon = |at: usize| match tokens.get(at) {
        Some(TokenTree::Punct(punct)) => punct.as_char() == ':',
        _ => false,
    };
    colon(at) && colon(at + 1)
}

/// The paths of a group in a `use` tree.
fn branches(prefix: &[String], tokens: TokenStream, found: &mut Vec<Named>) {
    let mut below = Vec::new();
    scan(tokens, &mut below);
    found.push(Named(prefix.to_vec()));
    for Named(path) in below {
        found.push(Named([prefix, &path].concat()));
    }
}
