// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"
)

// Colors of text and lines.
const (
	inkColor  = "#1f2328"
	dimColor  = "#59636e"
	lineColor = "#d0d7de"
)

// svg is a picture in the making. Coordinates have one decimal, so that the same
// results make the same file.
type svg struct {
	width, height float64
	title         string
	body          strings.Builder
}

func (s *svg) rect(x, y, w, h float64, color string) {
	fmt.Fprintf(&s.body, "  <rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"%s\"/>\n", x, y, w, h, color)
}

func (s *svg) line(x1, y1, x2, y2 float64, color string) {
	fmt.Fprintf(&s.body, "  <line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"%s\"/>\n", x1, y1, x2, y2, color)
}

// text at a base line; anchor is "start", "middle" or "end".
func (s *svg) text(x, y float64, anchor, color, format string, args ...any) {
	fmt.Fprintf(&s.body, "  <text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\" fill=\"%s\">%s</text>\n", x, y, anchor, color, escape(fmt.Sprintf(format, args...)))
}

var escaper = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;")

func escape(s string) string { return escaper.Replace(s) }

func (s *svg) String() string {
	return fmt.Sprintf("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %.0f %.0f\" font-family=\"system-ui, sans-serif\" font-size=\"12\" role=\"img\" aria-labelledby=\"title\">\n"+
		"  <title id=\"title\">%s</title>\n  <rect width=\"%.0f\" height=\"%.0f\" fill=\"#ffffff\"/>\n%s</svg>\n",
		s.width, s.height, escape(s.title), s.width, s.height, s.body.String())
}

// niceStep is a step of 1, 2 or 5 times a power of ten that divides the length into
// ten parts at most.
func niceStep(length float64) float64 {
	step := 0.001
	for {
		for _, m := range []float64{1, 2, 5} {
			if length <= 10*step*m {
				return step * m
			}
		}
		step *= 10
	}
}
