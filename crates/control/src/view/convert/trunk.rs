//! Which trunks are good.

use super::{Check, limits};
use crate::registry::v1;
use crate::view::{Refusal, Trunk};

impl TryFrom<&v1::Trunk> for Trunk {
    type Error = Vec<Refusal>;

    fn try_from(message: &v1::Trunk) -> Result<Self, Vec<Refusal>> {
        let mut check = Check::new(&message.name);
        let id = check.name(&message.name).map(|name| name.id().to_owned());
        check.text("display_name", &message.display_name);
        check.at_least_one(
            "networks",
            message.networks.len(),
            limits::TRUNK_NETWORKS,
            "network",
        );
        let networks = message.networks.iter().enumerate();
        let networks = networks.filter_map(|(i, text)| {
            check.parse(&format!("networks[{i}]"), text, "an address or a network")
        });
        let networks = networks.collect();
        let trunk = id.map(|id| Self {
            id,
            display_name: message.display_name.clone(),
            networks,
        });
        check.finish(trunk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mistake_of_a_trunk_names_its_field() {
        let fields = |trunk: v1::Trunk| -> Vec<_> {
            let refusals = Trunk::try_from(&trunk).unwrap_err();
            refusals.into_iter().map(|refusal| refusal.field).collect()
        };
        let trunk = |networks: &[&str]| v1::Trunk {
            name: "trunks/a".into(),
            networks: networks.iter().map(ToString::to_string).collect(),
            ..v1::Trunk::default()
        };
        assert_eq!(fields(trunk(&[])), ["networks"], "nobody is no trunk");
        assert_eq!(fields(trunk(&["192.0.2.1"; 65])), ["networks"]);
        assert_eq!(
            fields(trunk(&["192.0.2.0/33", "::1/128", "a.example.com", ""])),
            ["networks[0]", "networks[2]", "networks[3]"]
        );
        let named = v1::Trunk {
            name: "trunks/A".into(),
            display_name: "a\nb".into(),
            ..trunk(&["192.0.2.1"])
        };
        assert_eq!(fields(named), ["name", "display_name"]);
        let good = Trunk::try_from(&trunk(&["192.0.2.0/24", "::1"])).unwrap();
        assert_eq!((good.id.as_str(), good.networks.len()), ("a", 2));
    }
}
