// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package progress

import (
	"fmt"
	"strings"
	"time"
)

// Bytes writes a size for people: "8.0 MiB".
func Bytes(n int64) string {
	const step = 1024
	if n < step {
		return fmt.Sprintf("%d B", n)
	}
	v, units := float64(n)/step, []string{"KiB", "MiB", "GiB", "TiB"}
	for len(units) > 1 && v >= step-0.05 {
		v, units = v/step, units[1:]
	}
	return fmt.Sprintf("%.1f %s", v, units[0])
}

// Duration writes a time with three digits at most: "12 ms", "1.94 s", "3m20s".
func Duration(d time.Duration) string {
	switch {
	case d < 0:
		return "-" + Duration(-d)
	case d < time.Second:
		if ms := d.Round(time.Millisecond).Milliseconds(); ms < 1000 {
			return fmt.Sprintf("%d ms", ms)
		}
		return "1.00 s"
	case d < 10*time.Second:
		return fmt.Sprintf("%.2f s", d.Seconds())
	case d < 100*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return d.Round(time.Second).String()
}

// Bar draws shares of a whole next to each other, each with its own shade. An
// amount that is not zero shows at least one cell while there is room.
func Bar(width int, whole int64, parts ...int64) string {
	shades := []rune("█▒░")
	var b strings.Builder
	drawn, sum := 0, 0.0
	for i, p := range parts {
		if p <= 0 || whole <= 0 {
			continue
		}
		// Rounding where a part ends, not its length, keeps the whole whole.
		sum += float64(p)
		end := int(min(sum/float64(whole), 1)*float64(width) + 0.5)
		end = min(max(end, drawn+1), width)
		b.WriteString(strings.Repeat(string(shades[i%len(shades)]), end-drawn))
		drawn = end
	}
	b.WriteString(strings.Repeat("·", width-drawn))
	return b.String()
}
