#!/bin/bash
# Copyright The Godwit Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Makes every generated file anew: deep copies, custom resource definitions,
# roles, the chart's copies of both and of the admission policies, and the API
# reference.
set -euo pipefail
cd "$(dirname "$0")/.."

controller_gen=$(hack/tool.sh controller-gen)
crd_ref_docs=$(hack/tool.sh crd-ref-docs)

"$controller_gen" object:headerFile=hack/boilerplate.go.txt paths=./api/...
"$controller_gen" crd paths=./api/... output:crd:artifacts:config=config/crd/bases

roles() { # roles NAME PATHS...
	local name=$1 path args=()
	shift
	for path; do
		if [ -d "${path%/...}" ]; then args+=("paths=$path"); fi
	done
	"$controller_gen" "rbac:roleName=godwit-$name" "${args[@]}" "output:rbac:artifacts:config=config/rbac/$name"
	mkdir -p charts/godwit/files/rbac
	# The chart splits the file at the lines between its documents.
	sed '1{/^---$/d}' "config/rbac/$name/role.yaml" >"charts/godwit/files/rbac/$name.yaml"
}
roles manager ./controllers/... ./cmd/manager/...
roles agent ./node-agent/...

# The chart puts the release's names into them.
mkdir -p charts/godwit/files/admission
for policy in config/admission/*.yaml; do
	if [ "$(basename "$policy")" != kustomization.yaml ]; then cp "$policy" charts/godwit/files/admission/; fi
done

# The chart's definitions can be switched off, and stay when it is removed.
mkdir -p charts/godwit/templates/crds
for crd in config/crd/bases/*.yaml; do
	{
		echo '{{- if .Values.crds.install }}'
		sed -e '1{/^---$/d}' -e 's|^  annotations:$|&\n    helm.sh/resource-policy: keep|' "$crd"
		echo '{{- end }}'
	} >"charts/godwit/templates/crds/$(basename "$crd")"
done

mkdir -p docs
"$crd_ref_docs" --log-level=ERROR --config=hack/api-docs/config.yaml --source-path=api --renderer=markdown --output-path=docs/api.md
# It leaves blanks at the ends of lines.
sed -i 's/[[:space:]]*$//' docs/api.md
