{{/*
The environment of every program, as a YAML map. Options that are empty are left out, so that the
programs' defaults, or what a webhook sets, apply.
*/}}
{{- define "outbox.environment" -}}
{{- $values := .Values -}}
SHUTDOWN_GRACE: {{ printf "%ds" (int $values.shutdownGraceSeconds) }}
LOG_FORMAT: {{ $values.log.format }}
{{- with $values.log.filter }}
RUST_LOG: {{ . | quote }}
{{- end }}
{{- with $values.aws.region }}
AWS_REGION: {{ . }}
{{- end }}
{{- with $values.aws.endpoints.dynamodb }}
AWS_ENDPOINT_URL_DYNAMODB: {{ . }}
{{- end }}
{{- with $values.aws.endpoints.dynamodbStreams }}
AWS_ENDPOINT_URL_DYNAMODB_STREAMS: {{ . }}
{{- end }}
{{- with $values.aws.endpoints.sqs }}
AWS_ENDPOINT_URL_SQS: {{ . }}
{{- end }}
{{- with $values.telemetry.otlpEndpoint }}
OTEL_EXPORTER_OTLP_ENDPOINT: {{ . }}
{{- end }}
{{- end -}}

{{/*
The `env` list of a container: `environment` (the YAML map of the program's own variables), the map
above, and what the values add. The chart relies on what it sets, so that must not be set twice.
*/}}
{{- define "outbox.env" -}}
{{- $own := merge (fromYaml .environment) (fromYaml (include "outbox.environment" .root)) -}}
{{- $added := merge (deepCopy .values.env) .root.Values.env -}}
{{- range $name, $_ := $added -}}
{{- if or (hasKey $own $name) (eq $name "RELAY_INSTANCE_ID") -}}
{{- fail (printf "%s: the chart sets %s from another value; remove it from env" $.program $name) -}}
{{- end -}}
{{- end -}}
{{- range $name, $value := merge $own $added }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- if eq .program "outbox-relay" }}
# Unique among the pods, and kept when the container restarts: it reacquires its leases at once.
- name: RELAY_INSTANCE_ID
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
{{- end }}
{{- end -}}
