//! Scenarios of the flush pipeline: each flush once and in order, whatever fails; what a ticket has
//! promised is there, whatever ended the process or the machine.

mod ended;
mod load;
mod manifest;
mod states;
mod storm;

use crate::Scenario;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "storm",
        run: storm::run,
    },
    Scenario {
        name: "states",
        run: states::run,
    },
    Scenario {
        name: "kill",
        run: ended::kill,
    },
    Scenario {
        name: "power-cut",
        run: ended::power_cut,
    },
    Scenario {
        name: "power-cut-controls",
        run: ended::controls,
    },
];
