//! Scenarios of the example server with `--data`: what it has answered for is there, whatever ended
//! the process or the machine, and no command is there by half.

mod client;
mod ended;
mod load;
mod model;
mod server;

use crate::Scenario;

pub(crate) const SCENARIOS: &[Scenario] = &[
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
