//! `tandem-router`: the router as a program of its own.

fn main() -> anyhow::Result<()> {
    host::main::<tandem_router::Router>(&host::command::<tandem_router::Router>().get_matches())
}
