//! The model once more, as plainly as it can be said: for every moment, every subset of what is not
//! durable, applied to the start in the order of the log. It shares no code with the enumeration.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// A directory and a name in it. The directories are `/`, `/d` and `/e`; none moves.
type Name = (String, String);

#[derive(Clone, Debug)]
enum Step {
    Name(Name, Option<u64>),
    Names([(Name, Option<u64>); 2]),
    Bytes(u64, usize, Vec<u8>),
    AtLeast(u64, usize),
    Exactly(u64, usize),
}

impl Step {
    fn names(&self) -> Vec<Name> {
        match self {
            Self::Name(name, _) => vec![name.clone()],
            Self::Names([one, two]) => vec![one.0.clone(), two.0.clone()],
            _ => Vec::new(),
        }
    }

    fn file(&self) -> Option<u64> {
        match self {
            Self::Bytes(file, ..) | Self::AtLeast(file, _) | Self::Exactly(file, _) => Some(*file),
            _ => None,
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Disk {
    names: BTreeMap<Name, u64>,
    files: BTreeMap<u64, Vec<u8>>,
}

impl Disk {
    fn set(&mut self, name: &Name, file: Option<u64>) {
        match file {
            Some(file) => drop(self.names.insert(name.clone(), file)),
            None => drop(self.names.remove(name)),
        }
    }

    fn apply(&mut self, step: &Step) {
        match step {
            Step::Name(name, file) => self.set(name, *file),
            Step::Names(names) => names.iter().for_each(|(name, file)| self.set(name, *file)),
            Step::Bytes(file, offset, bytes) => {
                let held = self.files.entry(*file).or_default();
                held.resize(held.len().max(offset + bytes.len()), 0);
                held[*offset..offset + bytes.len()].copy_from_slice(bytes);
            }
            Step::AtLeast(file, len) => {
                let held = self.files.entry(*file).or_default();
                held.resize(held.len().max(*len), 0);
            }
            Step::Exactly(file, len) => self.files.entry(*file).or_default().resize(*len, 0),
        }
    }

    fn listing(&self) -> Listing {
        let mut listing: Listing = vec![("/d".to_owned(), None), ("/e".to_owned(), None)];
        for ((directory, name), file) in &self.names {
            let bytes = self.files.get(file).cloned().unwrap_or_default();
            listing.push((format!("{directory}/{name}"), Some(bytes)));
        }
        listing.sort();
        listing
    }
}

fn name(path: &Path) -> Name {
    let (directory, name) = path.to_str().unwrap().rsplit_once('/').unwrap();
    (directory.to_owned(), name.to_owned())
}

/// The steps of these operations, each with whether it is durable and with the step that it needs.
fn steps(ops: &[Op], lengths: bool) -> Vec<(Step, bool, Option<usize>)> {
    let mut live = Disk::default();
    let mut steps: Vec<(Step, bool, Option<usize>)> = Vec::new();
    for op in ops {
        let mut new = Vec::new();
        let mut covers: Box<dyn Fn(&Step) -> bool> = Box::new(|_| false);
        match op {
            Op::Create { path, inode } => new.push(Step::Name(name(path), Some(*inode))),
            Op::Remove { path } => new.push(Step::Name(name(path), None)),
            Op::Rename { from, to } => {
                let (from, to) = (name(from), name(to));
                let file = live.names[&from];
                if from.0 == to.0 && from != to {
                    new.push(Step::Names([(from, None), (to, Some(file))]));
                } else if from != to {
                    new.push(Step::Name(to, Some(file)));
                    new.push(Step::Name(from, None));
                }
            }
            Op::Write {
                inode,
                offset,
                bytes,
            } => {
                let (start, end) = (*offset as usize, *offset as usize + bytes.len());
                let before = live.files.get(inode).map_or(0, Vec::len);
                if lengths && end > before {
                    new.push(Step::AtLeast(*inode, end));
                }
                for sector in start / 512..=end / 512 {
                    let (from, to) = (start.max(sector * 512), end.min(sector * 512 + 512));
                    if from < to {
                        let part = bytes[from - start..to - start].to_vec();
                        new.push(Step::Bytes(*inode, from, part));
                    }
                }
            }
            Op::SetLen { inode, len } => new.push(Step::Exactly(*inode, *len as usize)),
            Op::Allocate { inode, len } => new.push(Step::AtLeast(*inode, *len as usize)),
            Op::SyncData { inode } => {
                let inode = *inode;
                covers = Box::new(move |step| step.file() == Some(inode));
            }
            Op::SyncDir { path } => {
                let directory = path.to_str().unwrap().trim_end_matches('/').to_owned();
                covers = Box::new(move |step| step.names().iter().any(|it| it.0 == directory));
            }
            _ => {}
        }
        for step in &mut steps {
            step.1 |= covers(&step.0);
        }
        loop {
            let durable = |place: usize| steps[place].1;
            let mut also = (0..steps.len()).filter(|&place| {
                let hidden = (place + 1..steps.len()).filter(|&later| durable(later));
                let mut hidden = hidden.map(|later| steps[later].0.names());
                let names = steps[place].0.names();
                let is_needed =
                    || (0..steps.len()).any(|it| durable(it) && steps[it].2 == Some(place));
                !durable(place)
                    && (is_needed() || hidden.any(|it| it.iter().any(|it| names.contains(it))))
            });
            let Some(place) = also.next() else { break };
            steps[place].1 = true;
        }
        let is_move = new.len() == 2 && matches!(op, Op::Rename { .. });
        for (place, step) in new.into_iter().enumerate() {
            live.apply(&step);
            let needs = (is_move && place == 1).then(|| steps.len() - 1);
            steps.push((step, false, needs));
        }
    }
    steps
}

/// Everything that a crash after exactly these operations may leave; `None` if that is too much.
fn after(ops: &[Op], lengths: bool) -> Option<BTreeSet<Listing>> {
    let steps = steps(ops, lengths);
    let pending: Vec<usize> = (0..steps.len()).filter(|&place| !steps[place].1).collect();
    if pending.len() > 9 {
        return None;
    }
    let mut found = BTreeSet::new();
    for bits in 0..1_u32 << pending.len() {
        let is_there = |place: usize| match pending.iter().position(|&it| it == place) {
            Some(bit) => bits >> bit & 1 == 1,
            None => true,
        };
        let mut disk = Disk::default();
        let mut is_whole = true;
        for (place, (step, _, needs)) in steps.iter().enumerate() {
            if is_there(place) {
                is_whole &= needs.is_none_or(is_there);
                disk.apply(step);
            }
        }
        if is_whole {
            found.insert(disk.listing());
        }
    }
    Some(found)
}

/// A log that could have been recorded, with a note after each operation.
fn log(random: &mut fastrand::Rng) -> Vec<Op> {
    const PATHS: [&str; 6] = ["/a", "/b", "/d/a", "/d/b", "/e/a", "/e/b"];
    let mut names: BTreeMap<&str, u64> = BTreeMap::new();
    let mut ops = Vec::new();
    let mut files = 0;
    for _ in 0..random.usize(4..16) {
        let (path, other) = (PATHS[random.usize(..6)], PATHS[random.usize(..6)]);
        let inode = random.u64(1..=files.max(1));
        let len = [0, 1, 500, 512, 700, 1024][random.usize(..6)];
        let op = match random.u8(..11) {
            0 | 1 if !names.contains_key(path) => {
                files += 1;
                names.insert(path, files);
                create(path, files)
            }
            2 if names.remove(path).is_some() => remove(path),
            3 | 4 if names.contains_key(path) => {
                let file = names.remove(path).unwrap();
                names.insert(other, file);
                rename(path, other)
            }
            5 => sync_dir(["/", "/d", "/e"][random.usize(..3)]),
            _ if files == 0 => continue,
            6 => Op::SetLen { inode, len },
            7 => Op::Allocate { inode, len },
            8 => Op::SyncData { inode },
            _ => write(inode, len, &vec![random.u8(1..); random.usize(1..600)]),
        };
        ops.push(op);
    }
    ops
}

#[test]
fn the_states_are_those_of_the_plain_model() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let start = MemoryFs::new();
    start.create_dir_all(Path::new("d")).unwrap();
    start.create_dir_all(Path::new("e")).unwrap();
    let mut compared = 0;
    for _ in 0..40 {
        let (ops, lengths) = (log(&mut random), random.bool());
        let noted: Vec<Op> = ops
            .iter()
            .flat_map(|op| [op.clone(), Op::Note(0)])
            .collect();
        // Beyond what is compared, there may be any number of undecided changes.
        let bounds = Bounds::new().exhaustive(9).subset_size(0).samples(0);
        let mut found: BTreeMap<usize, BTreeSet<Listing>> = BTreeMap::new();
        for state in states(&noted, &start, bounds.lengths(lengths)) {
            let is_new = found
                .entry(state.notes.len())
                .or_default()
                .insert(listing(&state.fs));
            // Just after an operation its states are told apart from those after its note.
            assert!(is_new, "twice: {state}");
        }
        for count in 1..=ops.len() {
            // With `count` notes, the next operation may have been done already.
            let expected = [count, count + 1]
                .into_iter()
                .filter(|&count| count <= ops.len())
                .map(|count| after(&ops[..count], lengths))
                .reduce(|one, two| Some(&one? | &two?));
            if let Some(Some(expected)) = expected {
                compared += 1;
                assert_eq!(found[&count], expected, "after {count} of {ops:#?}");
            }
        }
    }
    assert!(compared > 100, "{compared}");
}
