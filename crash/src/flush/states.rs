//! All that a power cut may leave of a manifest that a pipeline writes, in memory.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, anyhow, ensure};
use latchwork::flush::{FlushPipeline, FlushTicket, Shutdown};
use latchwork::fs::crash::{self, Bounds};
use latchwork::fs::{Fs, MemoryFs, RecordingFs};

use super::manifest::{Manifest, write_segment};
use crate::forgetful::{Forgetful, Sync};
use crate::scene::Scene;

const DIR: &str = "/data";

type Rule = fn(Sync<'_>) -> bool;

/// What is left out of the syncs.
const CONTROLS: &[(&str, Rule)] = &[
    (
        "manifest",
        |sync| matches!(sync, Sync::File { path, .. } if path.ends_with("manifest")),
    ),
    (
        "segments",
        |sync| matches!(sync, Sync::File { path, .. } if !path.ends_with("manifest")),
    ),
    (
        "names",
        |sync| matches!(sync, Sync::Directory { path, .. } if path == Path::new(DIR)),
    ),
];

pub(super) fn run(scene: &mut Scene) -> Result<()> {
    let started = Instant::now();
    let (mut rounds, mut states) = (0, 0);
    let result = (0..scene.choose(10, 200)).try_for_each(|_| {
        rounds += 1;
        let found = check_all(scene, |_| false, &mut states)?;
        found.map_or(Ok(()), |wrong| Err(anyhow!(wrong)))
    });
    let seconds = started.elapsed().as_secs_f64();
    let figures = format!("rounds={rounds} states={states} seconds={seconds:.1}");
    scene.report("states", figures, result);
    for (name, leaves_out) in CONTROLS {
        let mut states = 0;
        let found = check_all(scene, *leaves_out, &mut states)?;
        let result = match &found {
            Some(wrong) => {
                println!("  {name}: found: {wrong}");
                Ok(())
            }
            None => Err(anyhow!("nothing was found although the sync is left out")),
        };
        scene.report(
            &format!("states-controls {name}"),
            format!("states={states}"),
            result,
        );
    }
    Ok(())
}

/// Records some flushes, and checks all that a power cut may leave of them. Returns what is wrong.
fn check_all(scene: &mut Scene, leaves_out: Rule, states: &mut u64) -> Result<Option<String>> {
    let start = MemoryFs::new();
    let recording = RecordingFs::new(Arc::new(start.copy()));
    let forgetful = Forgetful::new(Arc::new(recording.clone()), leaves_out);
    flush_some(Arc::new(forgetful), &recording, &mut scene.random)?;
    let bounds = Bounds::short().samples(scene.choose(100, 1_000));
    let ops = recording.ops();
    for state in crash::states(&ops, &start, bounds.seed(scene.random.u64(..))) {
        *states += 1;
        if states.is_multiple_of(64) {
            scene.beat();
        }
        let promised = state.notes.iter().copied().max().unwrap_or(0);
        let opened = Manifest::open(Arc::new(state.fs.clone()), DIR.as_ref(), None);
        let wrong = match opened {
            Err(error) => format!("{error:#}"),
            Ok(found) if found.count() >= promised => continue,
            Ok(found) => format!(
                "lost: {promised} were promised, {} are there",
                found.count()
            ),
        };
        return Ok(Some(format!("{wrong}: {state}")));
    }
    Ok(None)
}

fn flush_some(fs: Arc<dyn Fs>, recording: &RecordingFs, random: &mut fastrand::Rng) -> Result<()> {
    let manifest = Manifest::open(fs.clone(), DIR.as_ref(), None)?;
    let flush = FlushPipeline::builder("states")
        .max_in_flight(random.usize(1..5))
        .streamers(2)
        .finalizer(manifest)
        .build()?;
    let mut tickets = Vec::new();
    for _ in 0..random.u8(4..10) {
        let slot = flush.reserve(0)?.rotate(&mut (), |(), sequence| sequence);
        let fs = fs.clone();
        let ticket =
            slot.submit(move |job| -> io::Result<u64> { write_segment(&*fs, DIR.as_ref(), **job) });
        tickets.push(ticket.map_err(|error| anyhow!("{error}"))?);
        if random.bool() {
            note_all(&mut tickets, recording)?;
        }
    }
    let left = flush.shutdown(Shutdown::DrainAll);
    ensure!(left.is_empty(), "{left:?} is left");
    // What was drained is promised as well. And where nothing is promised, nothing can be lost: by
    // now there is a note, and a cut after it that loses all that was not synced.
    note_all(&mut tickets, recording)
}

/// Waits for the tickets and notes what they promise.
fn note_all(tickets: &mut Vec<FlushTicket<Manifest>>, recording: &RecordingFs) -> Result<()> {
    for ticket in tickets.drain(..) {
        let count = ticket.wait().map_err(|error| anyhow!("{error:?}"))?;
        recording.note(count);
    }
    Ok(())
}
