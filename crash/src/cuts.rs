//! Power cuts on each kind of file system that there can be here.

use anyhow::{Result, anyhow};

use crate::disk::Kind;
use crate::scene::Scene;

/// What a scenario found on one of them: the figures of its line, and how it ended.
pub(crate) type End = (String, Result<()>);

/// Reports `run` on each kind, or why it cannot be.
pub(crate) fn on_each(
    scene: &mut Scene,
    scenario: &str,
    mut run: impl FnMut(&mut Scene, Kind) -> Result<End>,
) -> Result<()> {
    for kind in Kind::ALL {
        let name = format!("{scenario} {kind}");
        if let Some(why) = kind.impossible() {
            scene.skip(&name, &why);
            continue;
        }
        let (figures, result) = run(scene, kind)?;
        scene.report(&name, figures, result);
    }
    Ok(())
}

/// The same where something is left out on purpose: what must be found is not.
pub(crate) fn must_fail_on_each(
    scene: &mut Scene,
    scenario: &str,
    left_out: &str,
    mut run: impl FnMut(&mut Scene, Kind) -> Result<End>,
) -> Result<()> {
    on_each(scene, scenario, |scene, kind| {
        let (figures, result) = run(scene, kind)?;
        let result = match result {
            Ok(()) => Err(anyhow!("nothing was found although {left_out}")),
            Err(error) => {
                let error = format!("{error:#}");
                let line = error.lines().next().unwrap_or_default();
                println!("  {scenario} {kind}: found: {line}");
                Ok(())
            }
        };
        Ok((figures, result))
    })
}
