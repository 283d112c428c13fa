{{- define "culvert.labels" -}}
app.kubernetes.io/part-of: culvert
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/instance: {{ .Release.Name }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "culvert.image" -}}
{{ .root.Values.images.repository }}/{{ .name }}:{{ .root.Values.images.tag | default .root.Chart.AppVersion }}
{{- end }}

{{- define "culvert.pullSecrets" -}}
{{- with .Values.images.pullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- /* For what needs nothing of the machine. */ -}}
{{- define "culvert.unprivileged" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- /* The job and the cron job run the same. */ -}}
{{- define "culvert.keysPod" -}}
metadata:
  labels:
    app.kubernetes.io/name: culvert-keys
    culvert.dev/enroll: "false"
spec:
  serviceAccountName: culvert-keys
  restartPolicy: OnFailure
  {{- include "culvert.pullSecrets" . | nindent 2 }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    seccompProfile: {type: RuntimeDefault}
  tolerations:
  - {key: culvert.dev/agent-not-ready, operator: Exists}
  containers:
  - name: keys
    image: {{ include "culvert.image" (dict "root" . "name" "culvert-control") }}
    imagePullPolicy: {{ .Values.images.pullPolicy }}
    args: [ca, --namespace={{ .Release.Namespace }}, --trust-domain={{ .Values.trustDomain }}]
    resources:
      requests: {cpu: 10m, memory: 32Mi}
      limits: {memory: 128Mi}
    securityContext: {{- include "culvert.unprivileged" . | nindent 6 }}
{{- end }}
