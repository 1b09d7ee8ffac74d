{{/*
The Deployment of a program. Takes a dict:
  root, program, values   see _names.tpl
  environment             YAML map of the program's own environment variables
  ports                   YAML list of container ports besides the admin port
  secret                  name and key of a Secret, and the folder to mount it at; empty: none
  drainSeconds            time after SIGTERM before work is refused
  scaled                  whether an autoscaler sets the replicas
*/}}
{{- define "outbox.deployment" -}}
{{- $values := .values -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ include "outbox.name" . }}
  labels:
    {{- include "outbox.labels" . | nindent 4 }}
spec:
  {{- if not (or .scaled (kindIs "invalid" $values.replicas)) }}
  replicas: {{ $values.replicas }}
  {{- end }}
  revisionHistoryLimit: 5
  minReadySeconds: 5
  strategy:
    type: RollingUpdate
    rollingUpdate:
      maxSurge: 1
      maxUnavailable: 0
  selector:
    matchLabels:
      {{- include "outbox.selectorLabels" . | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "outbox.selectorLabels" . | nindent 8 }}
        {{- with $values.podLabels }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- with $values.podAnnotations }}
      annotations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
    spec:
      serviceAccountName: {{ include "outbox.serviceAccountName" . }}
      # The programs do not use the Kubernetes API. The tokens of IRSA are volumes of their own.
      automountServiceAccountToken: false
      # Variables of Services could have the names of options.
      enableServiceLinks: false
      {{- with .root.Values.imagePullSecrets }}
      imagePullSecrets:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $values.priorityClassName }}
      priorityClassName: {{ . }}
      {{- end }}
      # Draining, SHUTDOWN_GRACE, 2 s for work that exceeds it, and 5 s to flush telemetry; and 3 s.
      terminationGracePeriodSeconds: {{ add .drainSeconds .root.Values.shutdownGraceSeconds 10 }}
      securityContext:
        runAsNonRoot: true
        runAsUser: 10001
        runAsGroup: 10001
        # Makes mounted Secrets readable.
        fsGroup: 10001
        seccompProfile:
          type: RuntimeDefault
      topologySpreadConstraints:
        {{- range $key, $policy := dict "topology.kubernetes.io/zone" .root.Values.topologySpread.zone "kubernetes.io/hostname" .root.Values.topologySpread.node }}
        - topologyKey: {{ $key }}
          maxSkew: 1
          whenUnsatisfiable: {{ $policy }}
          labelSelector:
            matchLabels:
              {{- include "outbox.selectorLabels" $ | nindent 14 }}
          matchLabelKeys: [pod-template-hash]
        {{- end }}
      containers:
        - name: {{ .program }}
          image: {{ include "outbox.image" .root }}
          imagePullPolicy: {{ .root.Values.image.pullPolicy }}
          command: [{{ .program }}]
          env:
            {{- include "outbox.env" . | trim | nindent 12 }}
          {{- with concat .root.Values.envFrom $values.envFrom }}
          envFrom:
            {{- toYaml . | nindent 12 }}
          {{- end }}
          ports:
            - name: admin
              containerPort: {{ include "outbox.adminPort" .program }}
            {{- with .ports }}
            {{- . | nindent 12 }}
            {{- end }}
          # The checks take up to two seconds.
          startupProbe:
            httpGet: { path: /healthz, port: admin }
            periodSeconds: 2
            timeoutSeconds: 3
            failureThreshold: 30
          {{- if $values.livenessProbe }}
          livenessProbe:
            httpGet: { path: /healthz, port: admin }
            periodSeconds: 10
            timeoutSeconds: 3
            failureThreshold: 3
          {{- end }}
          readinessProbe:
            httpGet: { path: /readyz, port: admin }
            periodSeconds: 5
            timeoutSeconds: 3
            failureThreshold: 3
          resources:
            {{- toYaml $values.resources | nindent 12 }}
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities:
              drop: [ALL]
          {{- with .secret }}
          volumeMounts:
            - name: secret
              mountPath: {{ .folder }}
              readOnly: true
          {{- end }}
      {{- with .secret }}
      volumes:
        - name: secret
          secret:
            secretName: {{ .name }}
            defaultMode: 0440
            items:
              - key: {{ .key }}
                path: {{ .key }}
      {{- end }}
      {{- with $values.nodeSelector }}
      nodeSelector:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $values.tolerations }}
      tolerations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $values.affinity }}
      affinity:
        {{- toYaml . | nindent 8 }}
      {{- end }}
{{- end -}}
