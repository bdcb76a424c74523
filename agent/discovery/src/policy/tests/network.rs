//! What the API reference of NetworkPolicy and its concept page say, case by case. Pods: `x/a` to `z/c`,
//! labelled `pod`, those called a and b also `tier: front` and `tier: back`; namespaces labelled `ns`, w
//! and z also `team: red`. Port 80 is called web, 8000 (of b: 9000) admin.

use super::world::World;
use super::{manifest, read};

/// Title, specs in namespace x (or `NAMESPACE: SPEC`), connections with what becomes of each.
const CASES: &[(&str, &[&str], &str)] = &[
    // Isolation.
    ("without a policy all is open", &[], "w/a>x/a:80+ x/a>w/a:80+ x/a>203.0.113.5:443+ 203.0.113.5>x/a:80+"),
    (
        "default deny ingress: types default to Ingress",
        &["{podSelector: {}}"],
        "x/b>x/a:80- w/a>x/a:80- 203.0.113.5>x/a:80- x/a>w/a:80+ w/a>z/a:80+ x/a>203.0.113.5:80+",
    ),
    ("an absent podSelector selects all", &["{}"], "x/b>x/a:80- x/b>x/c:80-"),
    ("default deny ingress, said", &["{podSelector: {}, policyTypes: [Ingress]}"], "x/b>x/a:80- x/a>w/a:80+"),
    (
        "default deny egress",
        &["{podSelector: {}, policyTypes: [Egress]}"],
        "x/a>w/a:80- x/a>x/b:80- x/a>203.0.113.5:80- w/a>x/a:80+",
    ),
    (
        "default deny both",
        &["{podSelector: {}, policyTypes: [Ingress, Egress]}"],
        "x/a>w/a:80- w/a>x/a:80- x/a>x/b:80- w/a>z/a:80+",
    ),
    ("allow all ingress", &["{podSelector: {}, ingress: [{}]}"], "w/a>x/a:80+ 203.0.113.5>x/a:1+"),
    (
        "allow all egress",
        &["{podSelector: {}, egress: [{}], policyTypes: [Egress]}"],
        "x/a>w/a:80+ x/a>203.0.113.5:1+",
    ),
    (
        "an empty list of types counts as none",
        &["{podSelector: {}, policyTypes: []}"],
        "w/a>x/a:80- x/a>w/a:80+",
    ),
    (
        "egress rules without types isolate both",
        &["{podSelector: {}, egress: [{to: [{podSelector: {}}]}]}"],
        "x/a>w/a:80- w/a>x/a:80- x/a>x/b:80-",
    ),
    (
        "an empty egress list without types isolates ingress only",
        &["{podSelector: {}, egress: []}"],
        "x/a>w/a:80+ w/a>x/a:80-",
    ),
    (
        "types without Ingress leave ingress rules without effect",
        &["{podSelector: {}, policyTypes: [Egress], ingress: [{from: [{podSelector: {}}]}], egress: [{}]}"],
        "w/a>x/a:80+ x/a>w/a:80+",
    ),
    (
        "types without Egress leave egress rules without effect",
        &["{podSelector: {}, policyTypes: [Ingress], egress: [{to: [{podSelector: {}}]}], ingress: [{}]}"],
        "x/a>w/a:80+ w/a>x/a:80+",
    ),
    ("an empty list of rules closes", &["{podSelector: {}, ingress: []}"], "x/b>x/a:80-"),
    (
        "only the selected pods are isolated",
        &["{podSelector: {matchLabels: {pod: a}}}"],
        "x/b>x/a:80- x/a>x/b:80+ w/a>x/c:80+",
    ),
    (
        "a policy selects pods of its namespace only",
        &["{podSelector: {matchLabels: {pod: a}}}"],
        "x/b>w/a:80+ x/b>z/a:80+",
    ),
    // Pod selectors.
    (
        "podSelector alone means the policy's own namespace",
        &["{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}]}]}"],
        "x/b>x/a:80+ x/c>x/a:80- w/b>x/a:80- z/b>x/a:80-",
    ),
    (
        "an empty podSelector is the whole own namespace",
        &["{podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}"],
        "x/b>x/a:80+ x/c>x/a:80+ w/a>x/a:80- 203.0.113.5>x/a:80-",
    ),
    (
        "all of several labels",
        &["{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {pod: a, tier: front}}}]}]}"],
        "x/a>x/b:80+ x/c>x/b:80-",
    ),
    (
        "labels that no pod has together",
        &["{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {pod: a, tier: back}}}]}]}"],
        "x/a>x/b:80- x/c>x/b:80-",
    ),
    // Namespace selectors.
    (
        "namespaceSelector alone means all pods of these namespaces",
        &["{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: w}}}]}]}"],
        "w/a>x/a:80+ w/c>x/a:80+ z/a>x/a:80- x/b>x/a:80-",
    ),
    (
        "an empty namespaceSelector is all namespaces",
        &["{podSelector: {}, ingress: [{from: [{namespaceSelector: {}}]}]}"],
        "x/b>x/a:80+ w/a>x/a:80+ z/c>x/a:80+ 203.0.113.5>x/a:80- host/two>x/a:80-",
    ),
    (
        "namespaces of a shared label",
        &["{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: red}}}]}]}"],
        "w/a>x/a:80+ z/a>x/a:80+ x/b>x/a:80-",
    ),
    (
        "the label that every namespace has",
        &[
            "{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: z}}}]}]}",
        ],
        "z/b>x/a:80+ w/b>x/a:80-",
    ),
    (
        "both selectors in one peer hold together",
        &[
            "{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: w}}, podSelector: {matchLabels: {pod: b}}}]}]}",
        ],
        "w/b>x/a:80+ w/a>x/a:80- x/b>x/a:80- z/b>x/a:80-",
    ),
    (
        "in two peers each for itself",
        &[
            "{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: w}}}, {podSelector: {matchLabels: {pod: b}}}]}]}",
        ],
        "w/b>x/a:80+ w/a>x/a:80+ x/b>x/a:80+ z/b>x/a:80- x/c>x/a:80-",
    ),
    (
        "an empty podSelector with a namespaceSelector is all pods there",
        &[
            "{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: w}}, podSelector: {}}]}]}",
        ],
        "w/a>x/a:80+ w/c>x/a:80+ x/b>x/a:80-",
    ),
    (
        "an empty namespaceSelector with a podSelector is such pods anywhere",
        &[
            "{podSelector: {}, ingress: [{from: [{namespaceSelector: {}, podSelector: {matchLabels: {pod: c}}}]}]}",
        ],
        "x/c>x/a:80+ w/c>x/a:80+ z/c>x/a:80+ z/b>x/a:80-",
    ),
    // matchExpressions.
    (
        "In",
        &[
            "{podSelector: {}, ingress: [{from: [{podSelector: {matchExpressions: [{key: pod, operator: In, values: [b, q]}]}}]}]}",
        ],
        "x/b>x/a:80+ x/c>x/a:80-",
    ),
    (
        "In of a label that is not there",
        &[
            "{podSelector: {}, ingress: [{from: [{podSelector: {matchExpressions: [{key: tier, operator: In, values: [front]}]}}]}]}",
        ],
        "x/a>x/b:80+ x/b>x/c:80- x/c>x/b:80-",
    ),
    (
        "NotIn",
        &[
            "{podSelector: {}, ingress: [{from: [{podSelector: {matchExpressions: [{key: pod, operator: NotIn, values: [b]}]}}]}]}",
        ],
        "x/c>x/a:80+ x/b>x/a:80- w/c>x/a:80-",
    ),
    (
        "NotIn selects what has no such label",
        &[
            "{podSelector: {}, ingress: [{from: [{podSelector: {matchExpressions: [{key: tier, operator: NotIn, values: [back]}]}}]}]}",
        ],
        "x/c>x/a:80+ x/a>x/c:80+ x/b>x/a:80-",
    ),
    (
        "Exists",
        &[
            "{podSelector: {}, ingress: [{from: [{podSelector: {matchExpressions: [{key: tier, operator: Exists}]}}]}]}",
        ],
        "x/b>x/a:80+ x/c>x/a:80-",
    ),
    (
        "DoesNotExist",
        &[
            "{podSelector: {}, ingress: [{from: [{podSelector: {matchExpressions: [{key: tier, operator: DoesNotExist}]}}]}]}",
        ],
        "x/c>x/a:80+ x/b>x/a:80-",
    ),
    (
        "expressions and labels hold together",
        &[
            "{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {pod: b}, matchExpressions: [{key: tier, operator: NotIn, values: [back]}]}}]}]}",
        ],
        "x/b>x/a:80- x/c>x/a:80-",
    ),
    (
        "an empty selector with empty parts is empty",
        &[
            "{podSelector: {matchLabels: {}, matchExpressions: []}, ingress: [{from: [{podSelector: {matchLabels: {}}}]}]}",
        ],
        "x/b>x/a:80+ w/a>x/a:80-",
    ),
    (
        "a missing peer list is anybody, an empty selector is the namespace",
        &[
            "{podSelector: {matchLabels: {pod: a}}, ingress: [{ports: [{port: 80}]}]}",
            "{podSelector: {matchLabels: {pod: b}}, ingress: [{from: [{podSelector: {}}], ports: [{port: 80}]}]}",
        ],
        "w/a>x/a:80+ 203.0.113.5>x/a:80+ w/a>x/b:80- x/c>x/b:80+ 203.0.113.5>x/b:80-",
    ),
    (
        "expressions on namespaces",
        &[
            "{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: ns, operator: In, values: [x, z]}]}}]}]}",
        ],
        "x/b>x/a:80+ z/a>x/a:80+ w/a>x/a:80-",
    ),
    (
        "namespaces without a label",
        &[
            "{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: team, operator: DoesNotExist}]}}]}]}",
        ],
        "x/b>x/a:80+ w/a>x/a:80- z/a>x/a:80-",
    ),
    (
        "expressions select the isolated pods",
        &["{podSelector: {matchExpressions: [{key: pod, operator: NotIn, values: [a]}]}}"],
        "w/a>x/a:80+ w/a>x/b:80- w/a>x/c:80-",
    ),
    // Addresses.
    (
        "ipBlock",
        &["{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 203.0.113.0/24}}]}]}"],
        "203.0.113.5>x/a:80+ 203.0.114.5>x/a:80- w/a>x/a:80-",
    ),
    (
        "ipBlock with except",
        &[
            "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 203.0.113.0/24, except: [203.0.113.4/31]}}]}]}",
        ],
        "203.0.113.5>x/a:80- 203.0.113.4>x/a:80- 203.0.113.6>x/a:80+",
    ),
    (
        "what one block excepts another peer may allow",
        &[
            "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.2.0/24]}}, {namespaceSelector: {matchLabels: {ns: w}}}]}]}",
        ],
        "w/a>x/a:80+ z/a>x/a:80+",
    ),
    (
        "what one block excepts another rule may allow",
        &[
            "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.2.0/24]}}]}, {from: [{ipBlock: {cidr: 10.0.2.1/32}}]}]}",
        ],
        "w/a>x/a:80+ w/b>x/a:80-",
    ),
    (
        "several exceptions, one inside another",
        &[
            "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.2.0/24, 10.0.0.0/16, 10.0.3.1/32]}}]}]}",
        ],
        "w/a>x/a:80- z/a>x/a:80- 10.1.0.1>x/a:80+ 11.0.0.1>x/a:80-",
    ),
    (
        "an empty list of exceptions excepts nothing",
        &["{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 203.0.113.5/32, except: []}}]}]}"],
        "203.0.113.5>x/a:80+ 203.0.113.4>x/a:80-",
    ),
    (
        "ipBlock of all IPv4",
        &["{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0}}]}]}"],
        "203.0.113.5>x/a:80+ w/a>x/a:80+ w/a6>x/a6:80- fd99::1>x/a6:80-",
    ),
    (
        "ipBlock of all IPv6",
        &["{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: '::/0'}}]}]}"],
        "fd99::1>x/a6:80+ w/a6>x/a6:80+ w/a>x/a:80-",
    ),
    (
        "ipBlock of IPv6 with except",
        &["{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 'fd00::/16', except: ['fd00:2::/32']}}]}]}"],
        "w/a6>x/a6:80- z/a6>x/a6:80+",
    ),
    (
        "pods are in an ipBlock by their address",
        &["{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.2.0/24}}]}]}"],
        "w/a>x/a:80+ z/a>x/a:80-",
    ),
    (
        "bits beyond the length count for nothing",
        &["{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.2.77/24}}]}]}"],
        "w/a>x/a:80+ z/a>x/a:80-",
    ),
    (
        "egress to addresses",
        &[
            "{podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 203.0.113.0/24, except: [203.0.113.9/32]}}]}]}",
        ],
        "x/a>203.0.113.5:443+ x/a>203.0.113.9:443- x/a>w/a:80-",
    ),
    // Ports.
    (
        "a port",
        &["{podSelector: {}, ingress: [{ports: [{port: 80}]}]}"],
        "w/a>x/a:80+ w/a>x/a:81- 203.0.113.5>x/a:80+",
    ),
    (
        "a port of TCP, said",
        &["{podSelector: {}, ingress: [{ports: [{protocol: TCP, port: 80}]}]}"],
        "w/a>x/a:80+ w/a>x/a:81-",
    ),
    (
        "a port of UDP opens no TCP",
        &["{podSelector: {}, ingress: [{ports: [{protocol: UDP, port: 80}]}]}"],
        "w/a>x/a:80- w/a>x/a:53-",
    ),
    (
        "a port of SCTP opens no TCP",
        &["{podSelector: {}, ingress: [{ports: [{protocol: SCTP, port: 80}]}]}"],
        "w/a>x/a:80-",
    ),
    (
        "UDP beside TCP",
        &["{podSelector: {}, ingress: [{ports: [{protocol: UDP, port: 53}, {protocol: TCP, port: 53}]}]}"],
        "w/a>x/a:53+ w/a>x/a:80-",
    ),
    (
        "a protocol without a port is all its ports",
        &["{podSelector: {}, ingress: [{ports: [{protocol: TCP}]}]}"],
        "w/a>x/a:1+ w/a>x/a:65535+",
    ),
    (
        "UDP without a port opens no TCP",
        &["{podSelector: {}, ingress: [{ports: [{protocol: UDP}]}]}"],
        "w/a>x/a:53-",
    ),
    (
        "an empty list of ports is all ports",
        &["{podSelector: {}, ingress: [{ports: [], from: []}]}"],
        "w/a>x/a:1+ 203.0.113.5>x/a:80+",
    ),
    (
        "several ports",
        &["{podSelector: {}, ingress: [{ports: [{port: 80}, {port: 443}]}]}"],
        "w/a>x/a:80+ w/a>x/a:443+ w/a>x/a:81-",
    ),
    (
        "a range",
        &["{podSelector: {}, ingress: [{ports: [{port: 8000, endPort: 8002}]}]}"],
        "w/a>x/a:7999- w/a>x/a:8000+ w/a>x/a:8001+ w/a>x/a:8002+ w/a>x/a:8003-",
    ),
    (
        "a range of one",
        &["{podSelector: {}, ingress: [{ports: [{port: 80, endPort: 80}]}]}"],
        "w/a>x/a:80+ w/a>x/a:81-",
    ),
    (
        "a range up to the last port",
        &["{podSelector: {}, ingress: [{ports: [{port: 1, endPort: 65535}]}]}"],
        "w/a>x/a:1+ w/a>x/a:65535+",
    ),
    (
        "several ranges and a port between them",
        &[
            "{podSelector: {}, ingress: [{ports: [{port: 10, endPort: 20}, {port: 30, endPort: 40}, {port: 25}]}]}",
        ],
        "w/a>x/a:9- w/a>x/a:20+ w/a>x/a:21- w/a>x/a:25+ w/a>x/a:40+ w/a>x/a:41-",
    ),
    (
        "a named port and a range of one rule",
        &["{podSelector: {}, ingress: [{ports: [{port: admin}, {port: 9100, endPort: 9200}]}]}"],
        "w/a>x/a:8000+ w/a>x/a:9000- w/a>x/b:9000+ w/a>x/b:8000- w/a>x/b:9150+",
    ),
    (
        "a named port of UDP opens no TCP port of that name",
        &["{podSelector: {}, ingress: [{ports: [{protocol: UDP, port: web}]}]}"],
        "w/a>x/a:80-",
    ),
    (
        "a range of UDP opens no TCP",
        &["{podSelector: {}, ingress: [{ports: [{protocol: UDP, port: 1, endPort: 65535}]}]}"],
        "w/a>x/a:80-",
    ),
    (
        "a named port",
        &["{podSelector: {}, ingress: [{ports: [{port: web}]}]}"],
        "w/a>x/a:80+ w/a>x/a:81- w/a>x/a:8000-",
    ),
    (
        "a named port that pods number differently",
        &["{podSelector: {}, ingress: [{ports: [{port: admin}]}]}"],
        "w/a>x/a:8000+ w/a>x/a:9000- w/a>x/b:9000+ w/a>x/b:8000-",
    ),
    (
        "a named port that no container has",
        &["{podSelector: {}, ingress: [{ports: [{port: nothing}]}]}"],
        "w/a>x/a:80- w/a>x/a:8000-",
    ),
    (
        "a named port of egress is the destination's",
        &["{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: admin}]}]}"],
        "x/a>w/b:9000+ x/a>w/b:8000- x/a>w/a:8000+ x/b>w/a:9000-",
    ),
    (
        "a named port of egress means nothing outside",
        &["{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: web}]}]}"],
        "x/a>203.0.113.5:80- x/a>w/a:80+",
    ),
    (
        "peers and ports of a rule hold together",
        &[
            "{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: w}}}], ports: [{port: 80}]}]}",
        ],
        "w/a>x/a:80+ w/a>x/a:81- z/a>x/a:80-",
    ),
    (
        "rules each for itself",
        &[
            "{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: w}}}], ports: [{port: 80}]}, {from: [{namespaceSelector: {matchLabels: {ns: z}}}], ports: [{port: 81}]}]}",
        ],
        "w/a>x/a:80+ w/a>x/a:81- z/a>x/a:81+ z/a>x/a:80-",
    ),
    // Egress.
    (
        "egress to pods of the own namespace",
        &[
            "{podSelector: {}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {pod: b}}}]}]}",
        ],
        "x/a>x/b:80+ x/a>x/c:80- x/a>w/b:80- x/a>203.0.113.5:80-",
    ),
    (
        "egress to namespaces",
        &[
            "{podSelector: {}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {matchLabels: {ns: w}}}]}]}",
        ],
        "x/a>w/b:80+ x/a>z/b:80- x/a>x/b:80-",
    ),
    (
        "egress to pods of namespaces",
        &[
            "{podSelector: {}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {matchLabels: {team: red}}, podSelector: {matchLabels: {pod: c}}}]}]}",
        ],
        "x/a>w/c:80+ x/a>z/c:80+ x/a>w/a:80- x/a>x/c:80-",
    ),
    (
        "egress to a port",
        &["{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: 443}]}]}"],
        "x/a>203.0.113.5:443+ x/a>w/a:443+ x/a>w/a:80-",
    ),
    (
        "egress isolates the selected only",
        &["{podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress]}"],
        "x/a>w/a:80- x/b>w/a:80+",
    ),
    // Two ends.
    (
        "egress of one end and ingress of the other must both allow",
        &[
            "{podSelector: {}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {matchLabels: {ns: w}}}]}]}",
            "w: {podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: x}}, podSelector: {matchLabels: {pod: a}}}]}]}",
        ],
        "x/a>w/a:80+ x/b>w/a:80- x/a>z/a:80- z/a>w/a:80- w/a>z/a:80+",
    ),
    (
        "ingress that allows does not open egress",
        &["{podSelector: {}, policyTypes: [Egress]}", "w: {podSelector: {}, ingress: [{}]}"],
        "x/a>w/a:80- z/a>w/a:80+",
    ),
    (
        "egress that allows does not open ingress",
        &["{podSelector: {}, policyTypes: [Egress], egress: [{}]}", "w: {podSelector: {}}"],
        "x/a>w/a:80- x/a>z/a:80+",
    ),
    // Several policies add up.
    (
        "policies are additive",
        &[
            "{podSelector: {}}",
            "{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}]}]}",
            "{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{podSelector: {matchLabels: {pod: c}}}]}]}",
        ],
        "x/b>x/a:80+ x/c>x/a:80+ w/a>x/a:80- x/c>x/b:80- x/b>x/c:80+",
    ),
    (
        "a policy of one direction does not isolate the other",
        &["{podSelector: {}, policyTypes: [Egress], egress: [{}]}", "{podSelector: {matchLabels: {pod: a}}}"],
        "w/a>x/a:80- w/a>x/b:80+ x/a>w/a:80+",
    ),
    (
        "policies of two namespaces do not mix",
        &["{podSelector: {}}", "w: {podSelector: {}, ingress: [{}]}"],
        "z/a>x/a:80- z/a>w/a:80+",
    ),
    (
        "a selector means each policy's own namespace",
        &["w: {podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}]}]}"],
        "w/b>w/a:80+ x/b>w/a:80- x/b>x/a:80+",
    ),
    // What cannot be kept apart.
    (
        "a pod cannot block access to itself",
        &["{podSelector: {}, policyTypes: [Ingress, Egress]}"],
        "x/a>x/a:80+ w/a>x/a:80-",
    ),
    (
        "a pod's own node always reaches it",
        &["{podSelector: {}}"],
        "192.168.0.1>x/a:80+ host/one>x/a:80+ 192.168.0.2>x/a:80- host/two>x/a:80-",
    ),
    (
        "a pod always reaches its own node",
        &["{podSelector: {}, policyTypes: [Egress]}"],
        "x/a>192.168.0.1:10250+ x/a>192.168.0.2:10250-",
    ),
    // Host network.
    (
        "pods on the host network are their node's address",
        &["{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 192.168.0.2/32}}]}]}"],
        "host/two>x/a:80+ w/a>x/a:80-",
    ),
    (
        "and are selected by no label",
        &[
            "{podSelector: {}, ingress: [{from: [{namespaceSelector: {}, podSelector: {matchLabels: {pod: a}}}]}]}",
        ],
        "host/two>x/a:80- w/a>x/a:80+",
    ),
    (
        "nor isolated",
        &["host: {podSelector: {}, policyTypes: [Ingress, Egress]}"],
        "host/two>x/a:80+ x/a>host/two:80+",
    ),
];

#[test]
fn network_policies_mean_what_kubernetes_documents() {
    let mut count = 0;
    for (title, specs, connections) in CASES {
        let named = specs.iter().enumerate().map(|(i, spec)| {
            let (namespace, spec) = match spec.split_once(": {") {
                Some((namespace, rest)) if !namespace.starts_with('{') => (namespace, format!("{{{rest}")),
                _ => ("x", (*spec).to_owned()),
            };
            manifest("NetworkPolicy", namespace, &format!("p{i}"), &spec)
        });
        let policies = read(vec![], named.collect());
        assert_eq!(policies.unreadable, [], "{title}");
        count += World::new(policies).expect(title, connections);
    }
    assert!(count >= 200, "only {count} cases");
}

#[test]
fn what_the_api_server_would_not_take_is_refused_with_the_reason() {
    for (spec, why) in [
        ("{podSelector: {}, ingress: [{from: [{}]}]}", "spec.ingress[0].from[0]: it names no peer"),
        ("{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}]}]}", "ipBlock stands alone"),
        (
            "{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}, namespaceSelector: {}}]}]}",
            "ipBlock stands alone",
        ),
        ("{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0}}]}]}", "ADDRESS/LENGTH"),
        ("{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/40}}]}]}", "ADDRESS/LENGTH"),
        ("{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8]}}]}]}", "or is all of it"),
        ("{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: ['fd00::/8']}}]}]}", "is not inside of"),
        ("{ingress: [{from: [{ipBlock: {}}]}]}", "missing field `cidr`"),
        ("{ingress: [{ports: [{port: 0}]}]}", "0 is no port"),
        ("{ingress: [{ports: [{port: 65536}]}]}", "did not match any variant"),
        ("{ingress: [{ports: [{port: 80, endPort: 79}]}]}", "endPort 79 is below port 80"),
        ("{ingress: [{ports: [{endPort: 80}]}]}", "endPort needs a port that is a number"),
        ("{ingress: [{ports: [{port: web, endPort: 80}]}]}", "endPort needs a port that is a number"),
        ("{ingress: [{ports: [{port: 'a_b'}]}]}", "is no name of a port"),
        ("{ingress: [{ports: [{port: '80'}]}]}", "is no name of a port"),
        ("{ingress: [{ports: [{port: a-name-that-is-too-long}]}]}", "is no name of a port"),
        ("{ingress: [{ports: [{protocol: ICMP}]}]}", "unknown variant `ICMP`"),
        ("{policyTypes: [Both]}", "unknown variant `Both`"),
        ("{policyTypes: [Ingress, Egress, Ingress]}", "spec.policyTypes: there are two types"),
        (
            "{podSelector: {matchExpressions: [{key: a, operator: Gt, values: ['1']}]}}",
            "unknown variant `Gt`",
        ),
        ("{podSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}}", "take no values"),
        ("{podSelector: {matchExpressions: [{key: a, operator: NotIn}]}}", "need values"),
        ("{ingress: [{to: []}]}", "unknown field `to`"),
        ("{egress: [{from: []}]}", "unknown field `from`"),
        ("{podSelector: {}, policyTypes: [Egress], ingress: [{from: [{}]}]}", "names no peer"),
        ("{podSelectors: {}}", "unknown field `podSelectors`"),
    ] {
        let policies = read(vec![], vec![manifest("NetworkPolicy", "x", "p", spec)]);
        let said: Vec<&str> = policies.unreadable.iter().map(|u| u.why.as_str()).collect();
        assert!(said.len() == 1 && said[0].contains(why), "{spec}: {said:?} should say {why:?}");
        // Closed, in both directions, since it is not known which it meant.
        World::new(policies).expect(spec, "w/a>x/a:80- x/a>w/a:80- w/a>z/a:80+ x/a>x/a:80+");
    }
}
