{{/* The Lease by which agents elect one that reports for the cluster is nfagent/nfagent, and its Role with it. */}}
{{- define "nfagent.namespace" -}}
{{- if ne .Release.Namespace "nfagent" -}}
{{- fail (printf "namespace %q: install it in the namespace nfagent, with --namespace nfagent" .Release.Namespace) -}}
{{- end -}}
nfagent
{{- end -}}

{{- define "nfagent.labels" -}}
app.kubernetes.io/name: nfagent
{{- end -}}

{{- define "nfagent.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* Where probes ask: the address of settings.metrics.listen, or loopback where that is every address. */}}
{{- define "nfagent.probeHost" -}}
{{- $host := regexReplaceAll ":[0-9]+$" .Values.settings.metrics.listen "" | trimAll "[]" -}}
{{- if eq $host "0.0.0.0" -}}127.0.0.1{{- else if eq $host "::" -}}::1{{- else -}}{{ $host }}{{- end -}}
{{- end -}}

{{- define "nfagent.port" -}}
{{ regexFind "[0-9]+$" .Values.settings.metrics.listen }}
{{- end -}}

{{- define "nfagent.isLoopback" -}}
{{- if regexMatch "^(127[.]|\\[::1\\])" .Values.settings.metrics.listen -}}yes{{- end -}}
{{- end -}}

{{/* The node's folders are mounted where the settings have them. */}}
{{- define "nfagent.stateDir" -}}
{{ .Values.settings.state_dir | default "/var/lib/nfagent" }}
{{- end -}}

{{- define "nfagent.logDir" -}}
{{ .Values.settings.log_dir | default "/var/log/network" }}
{{- end -}}
