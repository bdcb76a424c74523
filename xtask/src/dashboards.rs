//! Part of `cargo xtask docs`: Grafana's dashboards, from deploy/monitoring/panels.yaml. They lie in the chart, which
//! makes ConfigMaps of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Context;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Dashboard {
    name: String,
    title: String,
    about: String,
    /// The metric whose destinations' namespaces can be chosen.
    namespace: Option<String>,
    panels: Vec<Panel>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Panel {
    title: String,
    about: Option<String>,
    unit: String,
    #[serde(default)]
    kind: Kind,
    #[serde(default)]
    wide: bool,
    queries: Vec<Query>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    #[default]
    Timeseries,
    Stat,
    Table,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Query {
    #[serde(default)]
    legend: String,
    expr: String,
}

/// Where they are put.
const MADE: &str = "deploy/helm/lark/monitoring/dashboards";
/// Columns of Grafana's grid.
const GRID: usize = 24;

/// Makes them, or with `check` compares only; returns the files that differ from what is there.
///
/// # Errors
/// When the source cannot be read, or a file not written.
pub(crate) fn make(workspace: &Path, check: bool) -> anyhow::Result<Vec<String>> {
    let source =
        fs::read_to_string(workspace.join("deploy/monitoring/panels.yaml")).context("panels.yaml")?;
    let dashboards: Vec<Dashboard> = serde_saphyr::from_str(&source).context("panels.yaml")?;
    let mut files = BTreeMap::new();
    for dashboard in &dashboards {
        let text = format!("{}\n", serde_json::to_string_pretty(&made(dashboard))?);
        files.insert(format!("{MADE}/{}.json", dashboard.name), text);
    }
    let mut stale = Vec::new();
    for (name, new) in files {
        let place = workspace.join(&name);
        if fs::read_to_string(&place).is_ok_and(|old| old == new) {
            continue;
        }
        if !check {
            fs::write(&place, new).with_context(|| format!("{} cannot be written", place.display()))?;
        }
        stale.push(name);
    }
    Ok(stale)
}

/// A dashboard as Grafana imports it, whose Prometheus is chosen by a variable.
fn made(dashboard: &Dashboard) -> Value {
    let prometheus = json!({ "type": "prometheus", "uid": "${datasource}" });
    let mut variables = vec![json!({
        "name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus",
    })];
    if let Some(metric) = &dashboard.namespace {
        let query = format!("label_values({metric}, destination_namespace)");
        variables.push(json!({
            "name": "namespace", "label": "Namespace", "type": "query", "datasource": prometheus,
            "query": { "query": query, "refId": "namespace" }, "definition": query,
            "refresh": 2, "sort": 1, "includeAll": true, "multi": true, "allValue": ".+",
            "current": { "text": "All", "value": "$__all" },
        }));
    }
    let (mut x, mut y, mut row) = (0, 0, 0);
    let mut panels = Vec::new();
    for (number, panel) in (1..).zip(&dashboard.panels) {
        let (width, height) = match panel.kind {
            Kind::Stat => (GRID / 4, 4),
            _ if panel.wide => (GRID, 9),
            Kind::Timeseries | Kind::Table => (GRID / 2, 8),
        };
        if x + width > GRID {
            (x, y, row) = (0, y + row, 0);
        }
        panels.push(made_panel(
            number,
            panel,
            &prometheus,
            &json!({ "x": x, "y": y, "w": width, "h": height }),
        ));
        (x, row) = (x + width, row.max(height));
    }
    json!({
        "uid": format!("lark-{}", dashboard.name),
        "title": dashboard.title,
        "description": dashboard.about,
        "tags": ["lark"],
        "schemaVersion": 39,
        "editable": true,
        "refresh": "30s",
        "time": { "from": "now-1h", "to": "now" },
        "links": [{ "title": "Lark", "type": "dashboards", "tags": ["lark"], "asDropdown": true, "includeVars": true, "keepTime": true }],
        "templating": { "list": variables },
        "panels": panels,
    })
}

fn made_panel(number: u32, panel: &Panel, prometheus: &Value, place: &Value) -> Value {
    let is_table = panel.kind == Kind::Table;
    let target = |(letter, query): (char, &Query)| {
        json!({
            "refId": letter.to_string(), "datasource": prometheus, "expr": query.expr.trim(),
            "legendFormat": query.legend,
            "instant": is_table, "range": !is_table, "format": if is_table { "table" } else { "time_series" },
        })
    };
    let targets: Vec<Value> = ('A'..).zip(&panel.queries).map(target).collect();
    let mut made = json!({
        "id": number,
        "type": match panel.kind { Kind::Timeseries => "timeseries", Kind::Stat => "stat", Kind::Table => "table" },
        "title": panel.title,
        "datasource": prometheus,
        "gridPos": place,
        "fieldConfig": { "defaults": { "unit": panel.unit }, "overrides": [] },
        "targets": targets,
    });
    if let Some(about) = &panel.about {
        made["description"] = json!(about.trim());
    }
    if is_table {
        made["transformations"] =
            json!([{ "id": "organize", "options": { "excludeByName": { "Time": true } } }]);
    }
    made
}
