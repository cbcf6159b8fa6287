{{- define "redial.selectorLabels" -}}
app.kubernetes.io/name: redial
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "redial.labels" -}}
{{ include "redial.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{- /* The name of what belongs to the cluster: one release's is not another's. */ -}}
{{- define "redial.clusterName" -}}
{{- if eq .Release.Name .Release.Namespace -}}
{{ .Release.Name }}
{{- else -}}
{{ .Release.Namespace }}-{{ .Release.Name }}
{{- end }}
{{- end }}

{{- /* The policy kinds that are read, as a list. */ -}}
{{- define "redial.kinds" -}}
{{- $wanted := .Values.policies.kinds -}}
{{- $found := list -}}
{{- $named := list -}}
{{- range (.Files.Get "files/kinds.yaml" | fromYaml).kinds -}}
{{- $full := printf "%s.%s" .kind .group -}}
{{- if or (not $wanted) (has .kind $wanted) (has $full $wanted) -}}
{{- $found = append $found . -}}
{{- $named = concat $named (list .kind $full) -}}
{{- end -}}
{{- end -}}
{{- range $wanted -}}
{{- if not (has . $named) -}}
{{- fail (printf "policies.kinds: there is no %s; files/kinds.yaml has what there is" .) -}}
{{- end -}}
{{- end -}}
{{- toYaml $found -}}
{{- end }}
