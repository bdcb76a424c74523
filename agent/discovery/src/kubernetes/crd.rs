//! The schema by which the API server takes AuthorizationPolicies, from the types that agents read them with.
//!
//! It refuses what has another form than agents take, as it is written. Fields that it does not know it keeps, on every
//! level: the API server of a cluster may be told of a newer schema than an agent has, or of an older one, and a
//! condition that it dropped would open what it is to close. An agent refuses a policy with a field that it does not
//! know, by name, and closes what that selects.

use kube_core::schema::StructuralSchemaRewriter;
use schemars::Schema;
use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;

use crate::policy::AuthorizationSpec;

/// The schema of what is below `spec`, as the chart has it (`deploy/helm/lark/authorization-policy.schema.json`).
pub fn authorization_schema() -> String {
    let settings = SchemaSettings::openapi3().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let settings =
        settings.with_transform(StructuralSchemaRewriter).with_transform(RecursiveTransform(relax));
    let schema = settings.into_generator().into_root_schema_for::<AuthorizationSpec>();
    let mut text = serde_json::to_string_pretty(&schema).unwrap_or_default();
    text.push('\n');
    text
}

/// What the API server is not to do: drop what it does not know, or fill in what somebody left away.
fn relax(schema: &mut Schema) {
    let Some(fields) = schema.as_object_mut() else { return };
    // A range says more than the name of a format that only Rust knows.
    for field in ["default", "title", "format"] {
        fields.remove(field);
    }
    if fields.contains_key("properties") {
        fields.insert("x-kubernetes-preserve-unknown-fields".to_owned(), true.into());
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::Value;

    use super::*;

    /// Every schema within, with the path that leads there.
    fn all<'a>(schema: &'a Value, at: String, found: &mut Vec<(String, &'a Value)>) {
        found.push((at.clone(), schema));
        for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
            all(inner, format!("{at}.{name}"), found);
        }
        for list in ["items", "additionalProperties"] {
            if schema[list].is_object() {
                all(&schema[list], format!("{at}.{list}"), found);
            }
        }
    }

    #[test]
    fn the_chart_has_the_schema_of_the_types() {
        let file = "../../deploy/helm/lark/authorization-policy.schema.json";
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        if std::env::var_os("LARK_WRITE_SCHEMA").is_some() {
            std::fs::write(&path, authorization_schema()).unwrap();
        }
        assert_eq!(
            std::fs::read_to_string(path).unwrap_or_default(),
            authorization_schema(),
            "run this test with LARK_WRITE_SCHEMA=1 to write it anew, then `cargo xtask manifests`"
        );
    }

    #[test]
    fn the_schema_is_structural_and_drops_and_adds_nothing() {
        let schema: Value = serde_json::from_str(&authorization_schema()).unwrap();
        let mut found = Vec::new();
        all(&schema, "spec".to_owned(), &mut found);
        for (at, schema) in &found {
            // https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#specifying-a-structural-schema
            assert!(schema["type"].is_string(), "{at} has no type: {schema}");
            for field in
                ["$ref", "$defs", "definitions", "oneOf", "anyOf", "allOf", "not", "const", "default"]
            {
                assert!(schema.get(field).is_none(), "{at} has {field}");
            }
            if schema.get("properties").is_some() {
                assert_eq!(schema["x-kubernetes-preserve-unknown-fields"], true, "{at} drops fields");
                assert_ne!(schema["additionalProperties"], false, "{at}");
            }
        }
        let at = |path: &str| found.iter().find(|(at, _)| at == path).unwrap().1;
        assert_eq!(at("spec.action")["enum"], serde_json::json!(["ALLOW", "DENY"]));
        assert_eq!(at("spec.rules.items.to.items.ports.items")["maximum"], 65_535);
        assert_eq!(at("spec.rules.items.from.items.ipBlocks.items")["required"], serde_json::json!(["cidr"]));
    }
}
