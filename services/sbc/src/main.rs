//! `tandem-sbc`: the SBC as a program of its own.

fn main() -> anyhow::Result<()> {
    host::main::<tandem_sbc::Sbc>(&host::command::<tandem_sbc::Sbc>().get_matches())
}
