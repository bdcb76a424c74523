{{- define "lark.selector" -}}
app.kubernetes.io/name: lark
app.kubernetes.io/component: {{ . }}
{{- end }}

{{- define "lark.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end }}
{{- end }}
{{- end }}

{{- /* An address before a port. */ -}}
{{- define "lark.host" -}}
{{- if contains ":" . }}[{{ . }}]{{ else }}{{ . }}{{ end }}
{{- end }}

{{- /* Settings that both must agree on: changed, they replace the pods. */ -}}
{{- define "lark.settings" -}}
LARK_TRUST_DOMAIN: {{ .trustDomain | quote }}
LARK_AGENT_DOWN: {{ .agentDown }}
LARK_SAME_NODE: {{ .sameNode }}
LARK_POLICY_CHANGE: {{ .policyChange }}
LARK_MTLS: {{ .mtls }}
{{- with .clusterRanges }}
LARK_CLUSTER_RANGES: {{ join "," . | quote }}
{{- end }}
{{- end }}
