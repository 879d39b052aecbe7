{{/* The name that objects of the release begin with. */}}
{{- define "godwit.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What never changes over a release's life. Call with (dict "root" $ "component" "agent"). */}}
{{- define "godwit.selectorLabels" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* All labels. Called like godwit.selectorLabels. */}}
{{- define "godwit.labels" -}}
{{ include "godwit.selectorLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end -}}

{{- define "godwit.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end -}}

{{/* Name of a component's service account. Called like godwit.selectorLabels. */}}
{{- define "godwit.serviceAccount" -}}
{{- default (printf "%s-%s" (include "godwit.fullname" .root) .component) (index .root.Values.serviceAccounts .component) -}}
{{- end -}}

{{- define "godwit.claim" -}}
{{- default (printf "%s-images" (include "godwit.fullname" .)) .Values.images.existingClaim -}}
{{- end -}}

{{/* Name of the webhooks' Service, their Secret and their configurations. */}}
{{- define "godwit.webhooks" -}}
{{ include "godwit.fullname" . }}-webhooks
{{- end -}}

{{/* Where and how the API server calls a webhook. Call with (dict "root" $ "path" "/evictions"). */}}
{{- define "godwit.webhook" -}}
admissionReviewVersions: [v1]
clientConfig:
  service:
    namespace: {{ .root.Release.Namespace }}
    name: {{ include "godwit.webhooks" .root }}
    path: {{ .path }}
    port: 443
{{- end -}}

{{/* What the webhooks for new pods have in common. */}}
{{- define "godwit.webhook.pods" -}}
rules:
  - apiGroups: [""]
    apiVersions: [v1]
    operations: [CREATE]
    resources: [pods]
    scope: Namespaced
sideEffects: None
timeoutSeconds: 5
{{- end -}}

{{/* What both webhooks for evictions have in common. */}}
{{- define "godwit.webhook.evictions" -}}
rules:
  - apiGroups: [""]
    apiVersions: [v1]
    operations: [CREATE]
    resources: [pods/eviction]
    scope: Namespaced
sideEffects: NoneOnDryRun
timeoutSeconds: {{ .Values.webhooks.evictions.timeoutSeconds }}
matchPolicy: Equivalent
{{- with .Values.webhooks.evictions.matchConditions }}
matchConditions:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The manager's command line. */}}
{{- define "godwit.manager.args" -}}
- --leader-elect
- --metrics-bind-address=:8080
- --health-probe-bind-address=:8081
- --gate-image={{ default (include "godwit.image" .) .Values.manager.gateImage }}
- --gate-image-pull-policy={{ .Values.image.pullPolicy }}
- --webhook-name={{ include "godwit.webhooks" . }}
- --webhook-rotate-certificates={{ not .Values.webhooks.certManager.use }}
- --log-level={{ .Values.logLevel }}
{{- range .Values.manager.extraArgs }}
- {{ . | quote }}
{{- end }}
{{- end -}}

{{/* The agent's command line. */}}
{{- define "godwit.agent.args" -}}
- --node-name=$(NODE_NAME)
- --images-dir=/var/lib/godwit/images
- --run-dir=/run/godwit
- --restore-dir=/dev/shm/godwit
- --metrics-bind-address=:8080
- --health-probe-bind-address=:8081
- --install-runtime={{ .Values.agent.installRuntime }}
- --cleanup-on-uninstall={{ .Values.agent.cleanupOnUninstall }}
- --log-level={{ .Values.logLevel }}
{{- range .Values.agent.extraArgs }}
- {{ . | quote }}
{{- end }}
{{- end -}}

{{/*
The roles and bindings of a component. The roles are made from the markers in
the code; here they get the release's names and namespace. Called like
godwit.selectorLabels.
*/}}
{{- define "godwit.rbac" -}}
{{- $root := .root -}}
{{- $labels := include "godwit.labels" . -}}
{{- $account := include "godwit.serviceAccount" . -}}
{{- $name := printf "%s-%s" (include "godwit.fullname" .root) .component -}}
{{- $rules := $root.Files.Get (printf "files/rbac/%s.yaml" .component) -}}
{{- $rules = replace "  - godwit-webhooks\n" (printf "  - %s\n" (include "godwit.webhooks" $root)) $rules -}}
{{- range splitList "\n---\n" $rules }}
{{- $role := fromYaml . }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $role.kind }}
metadata:
  name: {{ $name }}
  {{- if eq $role.kind "Role" }}
  namespace: {{ $root.Release.Namespace }}
  {{- end }}
  labels:
    {{- $labels | nindent 4 }}
rules:
  {{- toYaml $role.rules | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $role.kind }}Binding
metadata:
  name: {{ $name }}
  {{- if eq $role.kind "Role" }}
  namespace: {{ $root.Release.Namespace }}
  {{- end }}
  labels:
    {{- $labels | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ $role.kind }}
  name: {{ $name }}
subjects:
  - kind: ServiceAccount
    name: {{ $account }}
    namespace: {{ $root.Release.Namespace }}
{{- end }}
{{- end -}}

{{/* A component's service account. Called like godwit.selectorLabels. */}}
{{- define "godwit.serviceAccountObject" -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ include "godwit.serviceAccount" . }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "godwit.labels" . | nindent 4 }}
  {{- with .root.Values.serviceAccounts.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}

{{/* A component's metrics Service and ServiceMonitor. Called like godwit.selectorLabels. */}}
{{- define "godwit.metrics" -}}
{{- if .root.Values.metrics.service.create }}
---
apiVersion: v1
kind: Service
metadata:
  name: {{ include "godwit.fullname" .root }}-{{ .component }}-metrics
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "godwit.labels" . | nindent 4 }}
  {{- with .root.Values.metrics.service.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  clusterIP: None
  selector:
    {{- include "godwit.selectorLabels" . | nindent 4 }}
  ports:
    - name: metrics
      port: 8080
      targetPort: metrics
      protocol: TCP
{{- end }}
{{- if .root.Values.metrics.serviceMonitor.create }}
{{- if not .root.Values.metrics.service.create }}
{{- fail "metrics.serviceMonitor.create needs metrics.service.create" }}
{{- end }}
---
apiVersion: monitoring.coreos.com/v1
kind: ServiceMonitor
metadata:
  name: {{ include "godwit.fullname" .root }}-{{ .component }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "godwit.labels" . | nindent 4 }}
    {{- with .root.Values.metrics.serviceMonitor.labels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  selector:
    matchLabels:
      {{- include "godwit.selectorLabels" . | nindent 6 }}
  endpoints:
    - port: metrics
      interval: {{ .root.Values.metrics.serviceMonitor.interval }}
{{- end }}
{{- end -}}

{{/*
An admission policy with its binding. The files are copies of those in
config/admission; here they get the release's names and service accounts. Call
with (dict "root" $ "component" "agent" "file" "agent-nodes"), and with
"conditions", a list of further matchConditions, where there are some.
*/}}
{{- define "godwit.policy" -}}
{{- $this := . -}}
{{- $root := .root -}}
{{- $text := $root.Files.Get (printf "files/admission/%s.yaml" .file) -}}
{{- range list "agent" "manager" }}
{{- $account := include "godwit.serviceAccount" (dict "root" $root "component" .) -}}
{{- $text = replace (printf "system:serviceaccount:godwit-system:godwit-%s'" .) (printf "system:serviceaccount:%s:%s'" $root.Release.Namespace $account) $text -}}
{{- end }}
{{- range splitList "\n---\n" $text }}
{{- $object := fromYaml . }}
{{- $name := printf "%s%s" (include "godwit.fullname" $root) (trimPrefix "godwit" $object.metadata.name) }}
{{- $spec := $object.spec }}
{{- if $spec.policyName }}
{{- $_ := set $spec "policyName" $name }}
{{- else if $this.conditions }}
{{- $_ := set $spec "matchConditions" (concat (default (list) $spec.matchConditions) $this.conditions) }}
{{- end }}
---
apiVersion: {{ $object.apiVersion }}
kind: {{ $object.kind }}
metadata:
  name: {{ $name }}
  labels:
    {{- include "godwit.labels" $this | nindent 4 }}
spec:
  {{- toYaml $spec | nindent 2 }}
{{- end }}
{{- end -}}
