//! Scenarios of the log: what was acknowledged is there, whatever ended the process or the machine.

mod enumerate;
mod kill;
mod ledger;
mod load;
mod power_cut;
mod system_calls;

use crate::Scenario;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "states",
        run: enumerate::states,
    },
    Scenario {
        name: "states-controls",
        run: enumerate::controls,
    },
    Scenario {
        name: "kill",
        run: kill::run,
    },
    Scenario {
        name: "system-calls",
        run: system_calls::run,
    },
    Scenario {
        name: "power-cut",
        run: power_cut::run,
    },
    Scenario {
        name: "power-cut-controls",
        run: power_cut::controls,
    },
];
