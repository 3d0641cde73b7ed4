//! What the layering check wants to know of one file, read off its tokens.
//!
//! The lexer is proc-macro2's, so comments, strings, raw strings and lifetimes are told apart as
//! rustc does; doc comments arrive as `#[doc = "…"]` and their text is a string. Paths are read
//! wherever they stand (imports, types, expressions, macro arguments), and relative ones are
//! resolved by the module they stand in.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// One source file.
#[derive(Debug)]
pub(super) struct Source {
    /// Relative to `src/`.
    pub(super) file: PathBuf,
    pub(super) lines: usize,
    pub(super) mentions: Vec<Mention>,
    /// Lines that name `latchwork_loom`, or `latchwork_shuttle`.
    pub(super) model_cfgs: Vec<usize>,
    /// Lines that allow or expect `unsafe_code`.
    pub(super) unsafe_allowed: Vec<usize>,
    mutants: Vec<String>,
}

/// A path that the file names. Relative paths into the crate are given from its root.
#[derive(Clone, Debug)]
pub(super) struct Mention {
    pub(super) line: usize,
    path: Vec<String>,
    renamed: bool,
    /// `pub use …`
    exported_as: Option<String>,
}

impl Mention {
    /// Whether it is `path` or inside it, or a group that brings all of it along.
    pub(super) fn names(&self, path: &[&str]) -> bool {
        self.path.len() >= path.len() && self.path.iter().zip(path).all(|(a, b)| a == b)
    }

    /// Whether it brings in the whole of std under some other name, or all its names.
    pub(super) fn hides_std(&self) -> bool {
        let Some((first, rest)) = self.path.split_first() else {
            return false;
        };
        let whole = match rest {
            [] => self.renamed,
            [only] => only == "*" || (only == "self" && self.renamed),
            _ => false,
        };
        matches!(first.as_str(), "std" | "core" | "alloc") && whole
    }

    /// The first name below the crate's root, if it is a path into the crate.
    pub(super) fn in_crate(&self) -> Option<&str> {
        match self.path.as_slice() {
            [root, first, ..] if root == "crate" => Some(first),
            _ => None,
        }
    }
}

impl fmt::Display for Mention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.path.join("::"))
    }
}

impl Source {
    pub(super) fn parse(file: &Path, text: &str) -> Result<Source> {
        let tokens: TokenStream = text.parse().map_err(|error: proc_macro2::LexError| {
            anyhow!("line {}: {error}", error.span().start().line)
        })?;
        let mut source = Source {
            file: file.to_owned(),
            lines: text.lines().count(),
            mentions: Vec::new(),
            model_cfgs: Vec::new(),
            unsafe_allowed: Vec::new(),
            mutants: Vec::new(),
        };
        let module = module_of(file);
        source.walk(&tokens.into_iter().collect::<Vec<_>>(), &module);
        Ok(source)
    }

    /// The room the file belongs to; none for `lib.rs`.
    pub(super) fn room(&self) -> Option<&str> {
        let first = self.file.iter().next()?.to_str()?;
        let room = first.strip_suffix(".rs").unwrap_or(first);
        (room != "lib").then_some(room)
    }

    /// The names that `lib.rs` re-exports, and the room each comes from.
    pub(super) fn exports(&self) -> Vec<(String, String)> {
        let export = |mention: &Mention| {
            let name = mention.exported_as.clone()?;
            // `pub use latch::LatchTable` and `pub use crate::latch::LatchTable` alike.
            let room = mention
                .in_crate()
                .or(mention.path.first().map(String::as_str))?;
            Some((name, room.to_owned()))
        };
        self.mentions.iter().filter_map(export).collect()
    }

    pub(super) fn mutants(&self) -> Vec<String> {
        self.mutants.clone()
    }

    fn walk(&mut self, tokens: &[TokenTree], module: &[String]) {
        let mut at = 0;
        while at < tokens.len() {
            at = match &tokens[at] {
                TokenTree::Ident(_) => self.ident(tokens, at, module),
                TokenTree::Group(group) => {
                    self.walk(&group.stream().into_iter().collect::<Vec<_>>(), module);
                    at + 1
                }
                // `::loom::…`
                TokenTree::Punct(_)
                    if is_separator(tokens, at)
                        && matches!(tokens.get(at + 2), Some(TokenTree::Ident(_))) =>
                {
                    self.path(tokens, at + 2, module, false, false)
                }
                _ => at + 1,
            };
        }
    }

    /// Takes in what begins with an identifier, and returns where to go on.
    fn ident(&mut self, tokens: &[TokenTree], at: usize, module: &[String]) -> usize {
        let name = tokens[at].to_string();
        let line = line_of(&tokens[at]);
        match name.as_str() {
            "latchwork_loom" | "latchwork_shuttle" => self.model_cfgs.push(line),
            "allow" | "expect" => {
                if let Some(inside) = group_at(tokens, at + 1, Delimiter::Parenthesis)
                    && inside
                        .iter()
                        .any(|token| token.to_string() == "unsafe_code")
                {
                    self.unsafe_allowed.push(line);
                }
            }
            "mod" => {
                if let (Some(TokenTree::Ident(inner)), Some(inside)) = (
                    tokens.get(at + 1),
                    group_at(tokens, at + 2, Delimiter::Brace),
                ) {
                    let mut nested = module.to_vec();
                    nested.push(inner.to_string());
                    self.walk(&inside, &nested);
                    return at + 3;
                }
            }
            "use" => {
                let exported = at > 0 && ends_visibility(tokens, at - 1);
                let start = if is_separator(tokens, at + 1) {
                    at + 3
                } else {
                    at + 1
                };
                return self.path_or_group(tokens, start, module, exported);
            }
            "extern"
                if tokens
                    .get(at + 1)
                    .is_some_and(|token| token.to_string() == "crate") =>
            {
                return self.path(tokens, at + 2, module, true, false);
            }
            "thread_local" if is_punct(tokens, at + 1, '!') => self.local_thread_local(line),
            _ => {}
        }
        if is_separator(tokens, at + 1) {
            self.path(tokens, at, module, false, false)
        } else {
            self.mutant(Some(&name), tokens.get(at + 1));
            at + 1
        }
    }

    /// `mutant::enabled("name")`
    fn mutant(&mut self, function: Option<&String>, arguments: Option<&TokenTree>) {
        if let (Some("enabled"), Some(TokenTree::Group(group))) =
            (function.map(String::as_str), arguments)
            && let [TokenTree::Literal(name)] =
                group.stream().into_iter().collect::<Vec<_>>().as_slice()
        {
            self.mutants
                .push(name.to_string().trim_matches('"').to_owned());
        }
    }

    /// std's macro, unless the file has imported the shim's.
    fn local_thread_local(&mut self, line: usize) {
        let shims = |mention: &Mention| {
            mention.in_crate() == Some("sync")
                && mention
                    .path
                    .last()
                    .is_some_and(|last| last == "thread_local" || last == "*")
        };
        if !self.mentions.iter().any(shims) {
            let path = vec!["std".to_owned(), "thread_local".to_owned()];
            self.mentions.push(Mention {
                line,
                path,
                renamed: false,
                exported_as: None,
            });
        }
    }

    fn path_or_group(
        &mut self,
        tokens: &[TokenTree],
        at: usize,
        module: &[String],
        exported: bool,
    ) -> usize {
        match tokens.get(at) {
            Some(TokenTree::Group(group)) => {
                let inside: Vec<TokenTree> = group.stream().into_iter().collect();
                self.group(&inside, &[], module, exported);
                at + 1
            }
            Some(TokenTree::Ident(_)) => self.path(tokens, at, module, true, exported),
            _ => at,
        }
    }

    /// Takes in the path that begins at `at`, with the groups of an import.
    fn path(
        &mut self,
        tokens: &[TokenTree],
        at: usize,
        module: &[String],
        import: bool,
        exported: bool,
    ) -> usize {
        self.path_below(tokens, at, &[], module, import, exported)
    }

    fn path_below(
        &mut self,
        tokens: &[TokenTree],
        mut at: usize,
        prefix: &[String],
        module: &[String],
        import: bool,
        exported: bool,
    ) -> usize {
        let line = tokens.get(at).map_or(0, line_of);
        let mut path = prefix.to_vec();
        while let Some(TokenTree::Ident(name)) = tokens.get(at) {
            path.push(name.to_string());
            at += 1;
            if !is_separator(tokens, at) {
                break;
            }
            match tokens.get(at + 2) {
                Some(TokenTree::Ident(_)) => at += 2,
                Some(TokenTree::Group(group))
                    if import && group.delimiter() == Delimiter::Brace =>
                {
                    let inside: Vec<TokenTree> = group.stream().into_iter().collect();
                    self.group(&inside, &path, module, exported);
                    return at + 3;
                }
                Some(TokenTree::Punct(star)) if import && star.as_char() == '*' => {
                    path.push("*".to_owned());
                    at += 3;
                    break;
                }
                // A turbofish.
                _ => break,
            }
        }
        let rename = tokens
            .get(at)
            .filter(|token| import && token.to_string() == "as")
            .and_then(|_| tokens.get(at + 1))
            .map(ToString::to_string);
        self.mutant(path.last(), tokens.get(at));
        if import || path.len() > 1 {
            let path = resolve(path, module);
            let name = rename.clone().or_else(|| path.last().cloned());
            let exported_as = name.filter(|_| exported);
            self.mentions.push(Mention {
                line,
                path,
                renamed: rename.is_some(),
                exported_as,
            });
        }
        if rename.is_some() { at + 2 } else { at }
    }

    /// The members of `{a, b::c, d::{…}}`.
    fn group(
        &mut self,
        tokens: &[TokenTree],
        prefix: &[String],
        module: &[String],
        exported: bool,
    ) {
        for member in
            tokens.split(|token| matches!(token, TokenTree::Punct(comma) if comma.as_char() == ','))
        {
            match member.first() {
                Some(TokenTree::Punct(star)) if star.as_char() == '*' => {
                    let mut path = prefix.to_vec();
                    path.push("*".to_owned());
                    let line = line_of(&member[0]);
                    let path = resolve(path, module);
                    self.mentions.push(Mention {
                        line,
                        path,
                        renamed: false,
                        exported_as: None,
                    });
                }
                Some(TokenTree::Ident(_)) => {
                    self.path_below(member, 0, prefix, module, true, exported);
                }
                _ => {}
            }
        }
    }
}

/// The module that a file is: `rmw/command.rs` is `rmw::command`.
fn module_of(file: &Path) -> Vec<String> {
    let mut module: Vec<String> = file
        .with_extension("")
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    if module
        .last()
        .is_some_and(|last| last == "mod" || last == "lib")
    {
        module.pop();
    }
    module
}

/// Turns `self::…` and `super::…` into paths from the crate's root.
fn resolve(path: Vec<String>, module: &[String]) -> Vec<String> {
    let mut here = module.to_vec();
    let relative = path
        .iter()
        .take_while(|name| *name == "self" || *name == "super")
        .count();
    if relative == 0 {
        return path;
    }
    for name in &path[..relative] {
        if name == "super" {
            here.pop();
        }
    }
    let mut resolved = vec!["crate".to_owned()];
    resolved.extend(here);
    resolved.extend_from_slice(&path[relative..]);
    resolved
}

fn line_of(token: &TokenTree) -> usize {
    token.span().start().line
}

fn is_punct(tokens: &[TokenTree], at: usize, wanted: char) -> bool {
    matches!(tokens.get(at), Some(TokenTree::Punct(punct)) if punct.as_char() == wanted)
}

/// `::`
fn is_separator(tokens: &[TokenTree], at: usize) -> bool {
    is_punct(tokens, at, ':') && is_punct(tokens, at + 1, ':')
}

fn group_at(tokens: &[TokenTree], at: usize, delimiter: Delimiter) -> Option<Vec<TokenTree>> {
    match tokens.get(at) {
        Some(TokenTree::Group(group)) if group.delimiter() == delimiter => {
            Some(group.stream().into_iter().collect())
        }
        _ => None,
    }
}

/// Whether a `pub` or `pub(…)` ends at `at`.
fn ends_visibility(tokens: &[TokenTree], at: usize) -> bool {
    match &tokens[at] {
        TokenTree::Ident(word) => word == "pub",
        TokenTree::Group(_) => at > 0 && tokens[at - 1].to_string() == "pub",
        _ => false,
    }
}
