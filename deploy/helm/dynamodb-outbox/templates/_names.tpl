{{/*
Names and labels. The templates below take a dict with `root` (the chart's context) and `program`
(order-api, outbox-relay or inventory-worker).
*/}}

{{/* The prefix of all names. Names of Services have at most 63 characters, and -inventory-worker has 17. */}}
{{- define "outbox.prefix" -}}
{{- default .Release.Name .Values.namePrefix | trunc 46 | trimSuffix "-" -}}
{{- end -}}

{{- define "outbox.name" -}}
{{- printf "%s-%s" (include "outbox.prefix" .root) .program -}}
{{- end -}}

{{/* The labels that Services and Deployments select by. They never change. */}}
{{- define "outbox.selectorLabels" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .program }}
{{- end -}}

{{- define "outbox.labels" -}}
{{ include "outbox.selectorLabels" . }}
{{ include "outbox.commonLabels" .root }}
{{- end -}}

{{/* The labels of objects that belong to no single program. Takes the chart's context. */}}
{{- define "outbox.commonLabels" -}}
app.kubernetes.io/part-of: dynamodb-outbox
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end -}}

{{- define "outbox.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $image.repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $image.repository (default .Chart.AppVersion $image.tag) -}}
{{- end -}}
{{- end -}}

{{/* Takes `values` too: the values of the program. */}}
{{- define "outbox.serviceAccountName" -}}
{{- $account := .values.serviceAccount -}}
{{- if $account.create -}}
{{- default (include "outbox.name" .) $account.name -}}
{{- else -}}
{{- required (printf "serviceAccount.name is required for %s with serviceAccount.create: false" .program) $account.name -}}
{{- end -}}
{{- end -}}

{{/* The values of the three programs by name, as JSON. Takes the chart's context. */}}
{{- define "outbox.programs" -}}
{{- dict "order-api" .Values.orderApi "outbox-relay" .Values.outboxRelay "inventory-worker" .Values.inventoryWorker | toJson -}}
{{- end -}}

{{- define "outbox.adminPort" -}}
{{- get (dict "order-api" 8083 "outbox-relay" 8081 "inventory-worker" 8082) . -}}
{{- end -}}
