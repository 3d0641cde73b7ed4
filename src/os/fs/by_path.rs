//! What a wrapper knows of files by their names, kept as names change.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

/// Values by path. Paths that differ in `.`, `..` and doubled slashes only are the same.
#[derive(Debug)]
pub(super) struct ByPath<T>(BTreeMap<PathBuf, T>);

impl<T> Default for ByPath<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

/// The one spelling of a path.
pub(super) fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => drop(plain.pop()),
            part => plain.push(part),
        }
    }
    plain
}

impl<T> ByPath<T> {
    pub(super) fn get(&self, path: &Path) -> Option<&T> {
        self.0.get(&plain(path))
    }

    pub(super) fn insert(&mut self, path: &Path, value: T) {
        self.0.insert(plain(path), value);
    }

    pub(super) fn remove(&mut self, path: &Path) {
        self.0.remove(&plain(path));
    }

    /// What has the one name, or is below it, has the other, in place of what had that.
    pub(super) fn rename(&mut self, from: &Path, to: &Path) {
        let (from, to) = (plain(from), plain(to));
        if from == to {
            return;
        }
        let below = |path: &PathBuf, _: &mut T| path.starts_with(&from);
        let moved: Vec<_> = self.0.extract_if(.., below).collect();
        self.0.remove(&to);
        for (path, value) in moved {
            let rest = path.strip_prefix(&from).into_iter().flatten();
            self.0.insert(to.iter().chain(rest).collect(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renamed_directory_takes_what_is_below_it_along() {
        let mut values = ByPath::default();
        for (value, path) in ["/d", "/d/a", "/da", "/e"].into_iter().enumerate() {
            values.insert(Path::new(path), value);
        }
        values.rename(Path::new("/d/."), Path::new("/x//../e"));
        let left: Vec<_> = values
            .0
            .iter()
            .map(|(path, &value)| (path.to_str(), value))
            .collect();
        assert_eq!(left, [(Some("/da"), 2), (Some("/e"), 0), (Some("/e/a"), 1)]);
        values.rename(Path::new("/none"), Path::new("/e"));
        assert_eq!(
            values.get(Path::new("/e")),
            None,
            "what is unknown is there now"
        );
    }
}
