{{- define "holdfast-cluster.test" -}}
{{- $root := .root -}}
{{- $tls := dig "tls" "client" true $root.Values.spec -}}
name: {{ .name }}
image: {{ $root.Values.test.image }}
imagePullPolicy: IfNotPresent
command: {{ toJson $root.Values.test.command }}
args: {{ toJson .args }}
env:
- {name: ETCDCTL_API, value: "3"}
- name: ETCDCTL_ENDPOINTS
  value: {{ printf "%s://%s-gateway.%s.svc:2379" (ternary "https" "http" $tls) $root.Release.Name $root.Release.Namespace }}
{{- if $tls }}
- {name: ETCDCTL_CACERT, value: /tls/ca.crt}
- {name: ETCDCTL_CERT, value: /tls/tls.crt}
- {name: ETCDCTL_KEY, value: /tls/tls.key}
volumeMounts:
- {name: tls, mountPath: /tls, readOnly: true}
{{- end }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end -}}
