{{/* The chart's name, as objects' labels have it. */}}
{{- define "site-recovery.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* The name of the release's objects: at most 63 characters, since a label and a DNS name are. */}}
{{- define "site-recovery.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains (include "site-recovery.name" .) .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "site-recovery.name" .) | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* The name of objects outside of the release's namespace, where releases of other namespaces have theirs. */}}
{{- define "site-recovery.outsideName" -}}
{{- printf "%s-%s" .Release.Namespace (include "site-recovery.fullname" .) }}
{{- end }}

{{- define "site-recovery.selectorLabels" -}}
app.kubernetes.io/name: {{ include "site-recovery.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* The labels of every object. Those that Helm and the selectors need win over the user's. */}}
{{- define "site-recovery.labels" -}}
{{- $labels := include "site-recovery.selectorLabels" . | fromYaml }}
{{- $_ := set $labels "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_") }}
{{- $_ := set $labels "app.kubernetes.io/version" .Chart.AppVersion }}
{{- $_ := set $labels "app.kubernetes.io/managed-by" .Release.Service }}
{{- toYaml (merge $labels .Values.commonLabels) }}
{{- end }}

{{- define "site-recovery.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "site-recovery.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "site-recovery.certificatesSecretName" -}}
{{- default (printf "%s-gateway" (include "site-recovery.fullname" .)) .Values.gateway.certificates.secretName }}
{{- end }}

{{- define "site-recovery.image" -}}
{{- with .Values.image }}
{{- if .digest }}
{{- printf "%s@%s" .repository .digest }}
{{- else }}
{{- printf "%s:%s" .repository (default $.Chart.AppVersion .tag) }}
{{- end }}
{{- end }}
{{- end }}

{{/* What the controller may do in each namespace that it watches. */}}
{{- define "site-recovery.watchedRules" -}}
# The finalizers: a VM waits until its replication has ended, a site until its VMs are gone.
- apiGroups: [siterecovery.dev]
  resources: [hypervsites, protectedvms]
  verbs: [get, list, watch, patch]
- apiGroups: [siterecovery.dev]
  resources: [hypervsites/status, protectedvms/status]
  verbs: [patch]
# Those that a HyperVSite names; they are never listed.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}

{{/* The subject of all bindings. */}}
{{- define "site-recovery.subjects" -}}
- kind: ServiceAccount
  name: {{ include "site-recovery.serviceAccountName" . }}
  namespace: {{ .Release.Namespace }}
{{- end }}

{{/* What belongs to the workers of the data path. Their pods have another name than the controller's: agents must not
reach them. */}}
{{- define "site-recovery.workersName" -}}
{{- printf "%s-data-path" (include "site-recovery.fullname" . | trunc 53 | trimSuffix "-") }}
{{- end }}

{{- define "site-recovery.workersSelectorLabels" -}}
app.kubernetes.io/name: {{ printf "%s-data-path" (include "site-recovery.name" . | trunc 53 | trimSuffix "-") }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "site-recovery.workersLabels" -}}
{{- $component := dict "app.kubernetes.io/component" "data-path" }}
{{- toYaml (merge $component (include "site-recovery.labels" . | fromYaml)) }}
{{- end }}

{{- define "site-recovery.workersServiceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- printf "%s-data-path" (include "site-recovery.serviceAccountName" .) }}
{{- else }}
{{- include "site-recovery.serviceAccountName" . }}
{{- end }}
{{- end }}

{{/* What a worker may do in each namespace that it watches: it reads, and writes nothing. */}}
{{- define "site-recovery.workersRules" -}}
- apiGroups: [siterecovery.dev]
  resources: [hypervsites, protectedvms]
  verbs: [list, watch]
# Those that a HyperVSite names; they are never listed.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get]
{{- end }}

{{- define "site-recovery.workersSubjects" -}}
- kind: ServiceAccount
  name: {{ include "site-recovery.workersServiceAccountName" . }}
  namespace: {{ .Release.Namespace }}
{{- end }}
