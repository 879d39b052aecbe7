// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"crypto/sha256"
	"regexp"
	"strings"

	"godwit.dev/godwit/api/v1alpha1"
)

const (
	// suffixAlphabet has no vowels, so that no suffix spells a word, and no
	// characters that are easily confused.
	suffixAlphabet = "bcdfghjklmnpqrstvwxz2456789"
	maxNameLength  = 253
)

// suffixed matches names that TargetPodName has made. A name that only looks
// so loses its last part; that changes a name, never which pod is meant.
var suffixed = regexp.MustCompile(`^(.+)-m[` + suffixAlphabet + `]{4}$`)

// TargetPodName is the name of the migration's target pod: spec.targetPodName,
// or the source's name with a suffix that is made from the Migration's UID. It
// is the same each time, so a target pod whose creation was not recorded is
// found again. The suffix of an earlier migration is replaced, not added to.
func TargetPodName(m *v1alpha1.Migration) string {
	if m.Spec.TargetPodName != "" {
		return m.Spec.TargetPodName
	}
	suffix := "-" + nameSuffix(string(m.UID))
	base := m.Spec.PodName
	if match := suffixed.FindStringSubmatch(base); match != nil {
		base = match[1]
	}
	if len(base)+len(suffix) > maxNameLength {
		base = strings.TrimRight(base[:maxNameLength-len(suffix)], "-.")
	}
	if name := base + suffix; name != m.Spec.PodName {
		return name
	}
	// The same suffix twice in a row: as likely as a lost bet at 1:500000, but
	// then the two pods must not be taken for one.
	return base + "-" + nameSuffix(string(m.UID)+"+")
}

// nameSuffix is five characters that begin with an m.
func nameSuffix(uid string) string {
	sum := sha256.Sum256([]byte(uid))
	s := []byte{'m'}
	for _, b := range sum[:4] {
		s = append(s, suffixAlphabet[int(b)%len(suffixAlphabet)])
	}
	return string(s)
}
