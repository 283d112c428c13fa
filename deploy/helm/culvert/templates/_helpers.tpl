{{- define "culvert.labels" -}}
app.kubernetes.io/part-of: culvert
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "culvert.image" -}}
{{ printf "%s/%s:%s" .root.Values.images.repository .name (.root.Values.images.tag | default .root.Chart.AppVersion) | quote }}
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

{{- /* Nothing of culvert runs on Windows, nor on nodes that are none; a user may say otherwise. */ -}}
{{- define "culvert.nodeSelector" -}}
nodeSelector: {{- merge (deepCopy (. | default dict)) (dict "kubernetes.io/os" "linux") | toYaml | nindent 2 }}
{{- end }}

{{- /* The job and the cron job run the same, where the control plane may run. */ -}}
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
  {{- include "culvert.nodeSelector" .Values.control.nodeSelector | nindent 2 }}
  tolerations:
  - {key: culvert.dev/agent-not-ready, operator: Exists}
  {{- with .Values.control.tolerations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  containers:
  - name: keys
    image: {{ include "culvert.image" (dict "root" . "name" "culvert-control") }}
    imagePullPolicy: {{ .Values.images.pullPolicy }}
    args:
    - ca
    - {{ printf "--namespace=%s" .Release.Namespace | quote }}
    - {{ printf "--trust-domain=%s" .Values.trustDomain | quote }}
    resources:
      requests: {cpu: 10m, memory: 32Mi}
      limits: {memory: 128Mi}
    securityContext: {{- include "culvert.unprivileged" . | nindent 6 }}
{{- end }}
