{{- define "architect.namespace" -}}
{{- if .Values.namespace.create }}{{ .Values.namespace.name }}{{ else }}{{ .Release.Namespace }}{{ end }}
{{- end }}

{{- define "architect.tag" -}}
{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- /* The labels of every object; called with (list context name). */}}
{{- define "architect.labels" -}}
{{- $context := index . 0 -}}
{{ include "architect.selector" . }}
app.kubernetes.io/part-of: architect
app.kubernetes.io/version: {{ $context.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $context.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $context.Chart.Name $context.Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "architect.selector" -}}
app.kubernetes.io/name: {{ index . 1 }}
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
{{- end }}

{{- define "architect.installer" -}}
- --containerd-socket={{ .Values.containerd.socket }}
- --containerd-restart={{ .Values.containerd.restart }}
{{- if not .Values.containerd.configure }}
- --leave-containerd
{{- end }}
{{- if .Values.migration.enabled }}
- --moves
{{- end }}
{{- end }}
