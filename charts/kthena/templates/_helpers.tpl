{{- /* What several templates share. */ -}}

{{- define "kthena.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- /* What all names begin with; short enough for what is put behind it. */ -}}
{{- define "kthena.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "kthena.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "kthena.name" .) | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "kthena.labels" -}}
app.kubernetes.io/name: {{ include "kthena.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: kthena
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- /* What selects the pods of a component: (list . "controller"). These never change. */ -}}
{{- define "kthena.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "kthena.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "kthena.serverSecret" -}}
{{- if eq .Values.global.certManagementMode "manual" -}}
{{- required "global.stateTLS.serverSecretName must be set where certManagementMode is manual" .Values.global.stateTLS.serverSecretName }}
{{- else -}}
{{- include "kthena.fullname" . }}-state-server
{{- end }}
{{- end }}

{{- define "kthena.clientSecret" -}}
{{- if eq .Values.global.certManagementMode "manual" -}}
{{- required "global.stateTLS.clientSecretName must be set where certManagementMode is manual" .Values.global.stateTLS.clientSecretName }}
{{- else -}}
{{- include "kthena.fullname" . }}-state-client
{{- end }}
{{- end }}

{{- /* The host by which filters reach the controller, which its certificate names. */ -}}
{{- define "kthena.stateHost" -}}
{{ include "kthena.fullname" . }}-controller.{{ .Release.Namespace }}.svc
{{- end }}

{{- /* The name in the controller's certificate. */ -}}
{{- define "kthena.stateServerName" -}}
{{- $manual := eq .Values.global.certManagementMode "manual" -}}
{{- if and $manual .Values.global.stateTLS.serverName -}}
{{- .Values.global.stateTLS.serverName }}
{{- else -}}
{{- include "kthena.stateHost" . }}
{{- end }}
{{- end }}

{{- /* Of a pod: (list . "controller" .Values...). */ -}}
{{- define "kthena.podMetadata" -}}
{{- $root := index . 0 -}}
{{- $values := index . 2 -}}
labels:
  {{- with $values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- include "kthena.selector" (list $root (index . 1)) | nindent 2 }}
{{- end }}

{{- define "kthena.podSpec" -}}
{{- $root := index . 0 -}}
{{- $values := index . 2 -}}
serviceAccountName: {{ include "kthena.fullname" $root }}-{{ index . 1 }}
# The addresses of services come by DNS: their variables would only stand beside the programs' own.
enableServiceLinks: false
terminationGracePeriodSeconds: {{ $values.terminationGracePeriodSeconds }}
{{- with $root.Values.global.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 0 }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations: {{- toYaml . | nindent 0 }}
{{- end }}
{{- with $values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.topologySpreadConstraints }}
topologySpreadConstraints: {{- toYaml . | nindent 0 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "kthena.container" -}}
{{- $root := index . 0 -}}
{{- $values := index . 2 -}}
name: {{ index . 1 }}
image: {{ printf "%s:%s" $values.image.repository (default $root.Chart.AppVersion $values.image.tag) | quote }}
imagePullPolicy: {{ $values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- with $values.resources }}
resources: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- /* A PodDisruptionBudget, where there is more than one replica to spare: (list . "controller" .Values...). */ -}}
{{- define "kthena.disruptionBudget" -}}
{{- $root := index . 0 -}}
{{- if gt (int (index . 2).replicas) 1 }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "kthena.fullname" $root }}-{{ index . 1 }}
  namespace: {{ $root.Release.Namespace }}
  labels: {{- include "kthena.labels" $root | nindent 4 }}
spec:
  maxUnavailable: 1
  selector:
    matchLabels: {{- include "kthena.selector" (list $root (index . 1)) | nindent 6 }}
{{- end }}
{{- end }}
