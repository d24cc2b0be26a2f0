//! The modules of a target, and what each of them imports.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use syn::{Attribute, Item, ItemMod, ItemUse, Meta, UseTree, Visibility};

use crate::{
    cycles::Graph,
    paths::{self, Named},
};

/// A module's path from the root of its crate.
type ModulePath = Vec<String>;

/// The modules of one target.
pub(crate) struct Crate(BTreeMap<ModulePath, Module>);

/// What one module holds.
#[derive(Default)]
struct Module {
    /// Paths that its code names.
    named: Vec<Named>,
    /// What it re-exports: the name, and the path that the name leads to.
    reexports: BTreeMap<String, Named>,
}

impl Crate {
    /// Reads the module of this file and all modules below it.
    pub(crate) fn read(root: &Path) -> Result<Self, String> {
        let mut modules = Self(BTreeMap::new());
        let folder = root.parent().unwrap_or(Path::new("")).to_owned();
        modules.read_file(root, &[], &folder)?;
        Ok(modules)
    }

    /// `folder` is where the files of its submodules are.
    fn read_file(&mut self, file: &Path, module: &[String], folder: &Path) -> Result<(), String> {
        let text = std::fs::read_to_string(file)
            .map_err(|error| format!("{}: {error}", file.display()))?;
        let parsed =
            syn::parse_file(&text).map_err(|error| format!("{}: {error}", file.display()))?;
        self.read_items(&parsed.items, module, folder)
    }

    fn read_items(
        &mut self,
        items: &[Item],
        module: &[String],
        folder: &Path,
    ) -> Result<(), String> {
        self.0.entry(module.to_vec()).or_default();
        for item in items {
            if is_for_tests(item) {
                continue;
            }
            match item {
                Item::Mod(submodule) => self.read_submodule(submodule, module, folder)?,
                Item::Use(declaration) => {
                    let entry = self.0.entry(module.to_vec()).or_default();
                    read_use(declaration, entry);
                }
                other => {
                    let named = paths::named(other);
                    self.0.entry(module.to_vec()).or_default().named.extend(named);
                }
            }
        }
        Ok(())
    }

    fn read_submodule(
        &mut self,
        submodule: &ItemMod,
        parent: &[String],
        folder: &Path,
    ) -> Result<(), String> {
        let name = submodule.ident.to_string();
        let module = [parent, std::slice::from_ref(&name)].concat();
        let below = folder.join(&name);
        if let Some((_, items)) = &submodule.content {
            return self.read_items(items, &module, &below);
        }
        let file = match path_attribute(&submodule.attrs) {
            Some(path) => folder.join(path),
            None => candidates(folder, &name)
                .into_iter()
                .find(|file| file.is_file())
                .ok_or_else(|| format!("no file of the module {}", module.join("::")))?,
        };
        self.read_file(&file, &module, &below)
    }

    /// The modules that each module imports, without its ancestors.
    pub(crate) fn imports(&self) -> Graph {
        let mut graph = Graph::new();
        for (path, module) in &self.0 {
            let imported: BTreeSet<String> = module
                .named
                .iter()
                .filter_map(|named| self.resolve(path, named, 0))
                .filter(|imported| !path.starts_with(imported))
                .map(|imported| imported.join("::"))
                .collect();
            graph.insert(path.join("::"), imported);
        }
        graph
    }

    /// The module that defines what a path names, if it is one of this crate.
    fn resolve(&self, from: &[String], named: &Named, depth: usize) -> Option<ModulePath> {
        let (mut module, rest) = match named.0.first()?.as_str() {
            "crate" => (Vec::new(), &named.0[1..]),
            "self" => (from.to_vec(), &named.0[1..]),
            "super" => {
                let up = named.0.iter().take_while(|part| *part == "super").count();
                (from.get(..from.len().checked_sub(up)?)?.to_vec(), &named.0[up..])
            }
            first => {
                let child = [from, &[first.to_owned()]].concat();
                if !self.0.contains_key(&child) {
                    return None;
                }
                (child, &named.0[1..])
            }
        };
        for (index, part) in rest.iter().enumerate() {
            let child = [module.as_slice(), std::slice::from_ref(part)].concat();
            if self.0.contains_key(&child) {
                module = child;
                continue;
            }
            // Re-exports of re-exports end: no crate nests them deeper than this.
            let reexport = self.0.get(&module)?.reexports.get(part).filter(|_| depth < 8);
            if let Some(reexport) = reexport {
                let further = Named([reexport.0.as_slice(), &rest[index + 1..]].concat());
                return self.resolve(&module, &further, depth + 1).or(Some(module));
            }
            break;
        }
        Some(module)
    }
}

/// Where the file of a module may be.
fn candidates(folder: &Path, name: &str) -> [PathBuf; 2] {
    [folder.join(format!("{name}.rs")), folder.join(name).join("mod.rs")]
}

/// Reads a `use` declaration. One with a visibility is a re-export; it is an import, too, unless it
/// leads to a submodule.
fn read_use(declaration: &ItemUse, module: &mut Module) {
    let mut found = Vec::new();
    flatten(&declaration.tree, &mut Vec::new(), &mut found);
    let is_private = matches!(declaration.vis, Visibility::Inherited);
    for (name, named) in found {
        if is_private {
            module.named.push(named.clone());
        }
        module.reexports.insert(name, named);
    }
}

/// Each name that a `use` tree brings into scope, and the path that it leads to.
fn flatten(tree: &UseTree, prefix: &mut Vec<String>, found: &mut Vec<(String, Named)>) {
    match tree {
        UseTree::Path(path) => {
            prefix.push(path.ident.to_string());
            flatten(&path.tree, prefix, found);
            prefix.pop();
        }
        UseTree::Group(group) => {
            for tree in &group.items {
                flatten(tree, prefix, found);
            }
        }
        UseTree::Glob(_) => found.push(("*".to_owned(), Named(prefix.clone()))),
        UseTree::Name(name) if name.ident == "self" => {
            let last = prefix.last().cloned().unwrap_or_default();
            found.push((last, Named(prefix.clone())));
        }
        UseTree::Name(name) => {
            let name = name.ident.to_string();
            found.push((name.clone(), Named([prefix.as_slice(), &[name]].concat())));
        }
        UseTree::Rename(rename) => {
            let path = [prefix.as_slice(), &[rename.ident.to_string()]].concat();
            found.push((rename.rename.to_string(), Named(path)));
        }
    }
}

/// Whether it is there for tests alone: `#[cfg(test)]`, `#[test]`.
fn is_for_tests(item: &Item) -> bool {
    let attributes = match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => return false,
    };
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::List(list) => list.path.is_ident("cfg") && list.tokens.to_string() == "test",
        _ => false,
    })
}

/// The file that a `#[path = "…"]` names.
fn path_attribute(attributes: &[Attribute]) -> Option<String> {
    attributes.iter().find_map(|attribute| match &attribute.meta {
        Meta::NameValue(pair) if pair.path.is_ident("path") => match &pair.value {
            syn::Expr::Lit(literal) => match &literal.lit {
                syn::Lit::Str(text) => Some(text.value()),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    })
}
