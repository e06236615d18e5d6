package config

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// kind is what a node is.
type kind uint8

const (
	null kind = iota
	scalar
	mapping
	sequence
)

func (k kind) String() string { return [...]string{"nothing", "a value", "a mapping", "a list"}[k] }

// node is a part of the file, its aliases followed and its references
// expanded.
type node struct {
	kind    kind
	place   Place
	text    string // a scalar's
	ref     string // the scalar as written, where text is made from references: it is not to be shown
	err     error  // of a reference, an alias or a tag: there is nothing to be had from it
	members []member
	items   []*node
}

// member is one key of a mapping and what it holds.
type member struct {
	key   string
	place Place // of the key
	value *node
}

func (n *node) member(key string) *node {
	if n != nil {
		for _, m := range n.members {
			if m.key == key {
				return m.value
			}
		}
	}
	return nil
}

// What a file may hold at most. The parser takes time in proportion to the
// square of what is nested, and a configuration of a thousand routes stays
// below all of these.
const (
	maxBytes  = 256 << 10
	maxBlank  = 100  // empty lines in a row
	maxSpaces = 2000 // of white space in a row
	maxTokens = 60_000
	maxDepth  = 32
	maxNodes  = 40_000
)

// builder makes nodes of a parsed file and notes what is wrong.
type builder struct {
	file     string
	expand   func(text string) (expanded string, isRef bool, err error)
	note     func(at Place, format string, args ...any)
	anchors  map[string]ast.Node
	open     map[string]bool // anchors that are being followed
	nodes    int
	overfull bool
}

// parse reads src. Without a usable file it returns nil and has noted why.
func (b *builder) parse(src []byte) *node {
	start := Place{File: b.file, Line: 1, Column: 1}
	if len(src) > maxBytes {
		b.note(start, "the file has %d bytes, a configuration may have %d: is it the right file?", len(src), maxBytes)
		return nil
	}
	src = []byte(strings.TrimPrefix(string(src), "\ufeff"))
	if at, what := unreadable(string(src)); what != "" {
		at.File = b.file
		b.note(at, "%s: a configuration is plain text in UTF-8", what)
		return nil
	}
	file, err := parseYAML(string(src))
	if err != nil {
		at := start
		text := err.Error()
		var syntax *yaml.SyntaxError
		if errors.As(err, &syntax) {
			text = syntax.Message
			if p := syntax.Token; p != nil && p.Position != nil {
				at = Place{b.file, max(1, p.Position.Line), max(1, p.Position.Column)}
			}
		}
		b.note(at, "this is no valid YAML: %s%s", text, quoteHint(string(src), at.Line))
		return nil
	}
	var root ast.Node
	for _, doc := range file.Docs {
		if doc.Body == nil || doc.Body.Type() == ast.CommentType || doc.Body.Type() == ast.CommentGroupType {
			continue
		}
		if root != nil {
			b.note(b.place(doc.Body), "a second document begins here: a configuration is one")
			return nil
		}
		root = doc.Body
	}
	if root == nil {
		b.note(start, "the file holds no configuration: it needs clusters, inputs and routes")
		return nil
	}
	b.anchors, b.open = map[string]ast.Node{}, map[string]bool{}
	n := b.node(root, 0)
	if n.kind != mapping {
		b.note(n.place, "want a mapping with clusters, inputs and routes, have %s", n.kind)
		return nil
	}
	return n
}

// unreadable finds the first thing that no YAML text may hold.
func unreadable(src string) (at Place, what string) {
	at.Line, at.Column = 1, 1
	blank, spaces := 0, 0
	for i, c := range src {
		switch {
		case c == '\n' || c == '\r':
			if blank++; blank > 2*maxBlank { // a line may end in two
				return at, fmt.Sprintf("more than %d empty lines in a row", maxBlank)
			}
			if c == '\n' {
				at.Line, at.Column = at.Line+1, 1
			}
			continue
		case c == ' ' || c == '\t':
			if spaces++; spaces > maxSpaces {
				return at, fmt.Sprintf("more than %d blanks in a row", maxSpaces)
			}
			at.Column++
			continue
		case c == utf8.RuneError:
			if _, n := utf8.DecodeRuneInString(src[i:]); n == 1 {
				return at, fmt.Sprintf("byte %#02x is not UTF-8", src[i])
			}
		case c < ' ', c >= 0x7f && c < 0xa0 && c != 0x85:
			return at, fmt.Sprintf("control character %U", c)
		}
		at.Column++
		blank, spaces = 0, 0
	}
	return at, ""
}

// quoteHint helps with the one thing people trip over: "${env:X}" holds braces.
func quoteHint(src string, line int) string {
	n := 0
	for l := range strings.Lines(src) {
		if n++; n == line && strings.Contains(l, "${") && strings.ContainsAny(l, "{[") {
			return `; inside { } and [ ] a reference needs quotes, as "${env:NAME}"`
		}
	}
	return ""
}

// parseYAML calls the parser, and survives it.
func parseYAML(src string) (file *ast.File, err error) {
	defer func() {
		if r := recover(); r != nil {
			file, err = nil, errors.New("it cannot be made sense of; indent with spaces, and quote what holds : or #")
		}
	}()
	tokens := lexer.Tokenize(src)
	if len(tokens) > maxTokens {
		return nil, fmt.Errorf("it holds more than %d words: is it the right file?", maxTokens)
	}
	depth, line, dashes := 0, 0, 0
	for _, t := range tokens {
		switch t.Type {
		case token.MappingStartType, token.SequenceStartType:
			depth++
		case token.MappingEndType, token.SequenceEndType:
			depth--
		case token.SequenceEntryType, token.MappingKeyType, token.AnchorType, token.TagType:
			if t.Position.Line != line {
				line, dashes = t.Position.Line, 0
			}
			dashes++
		}
		// In block style depth is indentation.
		if depth > maxDepth || dashes > maxDepth || depth+t.Position.IndentNum/2 > 10*maxDepth {
			return nil, &yaml.SyntaxError{Message: fmt.Sprintf("nested over %d deep", maxDepth), Token: t}
		}
	}
	return parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
}

// place returns where n begins: of a mapping that is its first key, for the
// parser has its colon.
func (b *builder) place(n ast.Node) Place {
	switch m := n.(type) {
	case *ast.MappingNode:
		if len(m.Values) > 0 && !m.IsFlowStyle {
			return b.place(m.Values[0].Key)
		}
	case *ast.MappingValueNode:
		return b.place(m.Key)
	}
	at := Place{b.file, 1, 1}
	if n == nil {
		return at
	}
	if t := n.GetToken(); t != nil && t.Position != nil {
		at.Line, at.Column = max(1, t.Position.Line), max(1, t.Position.Column)
	}
	return at
}

// node turns n into a node of ours.
func (b *builder) node(n ast.Node, depth int) *node {
	out := &node{place: b.place(n)}
	if b.nodes++; b.nodes > maxNodes || depth > maxDepth {
		if !b.overfull {
			b.note(out.place, "too much is nested here, or aliases repeat it too often: write it plainer")
		}
		b.overfull = true
		return out
	}
	switch n := n.(type) {
	case nil, *ast.NullNode:
	case *ast.MappingNode:
		out.kind = mapping
		b.mapping(out, n.Values, depth)
	case *ast.MappingValueNode:
		out.kind = mapping
		b.mapping(out, []*ast.MappingValueNode{n}, depth)
	case *ast.SequenceNode:
		out.kind = sequence
		for _, item := range n.Values {
			out.items = append(out.items, b.node(item, depth+1))
		}
	case *ast.AnchorNode:
		name := anchorName(n.Name)
		b.anchors[name] = n.Value
		b.open[name] = true
		out = b.node(n.Value, depth)
		b.open[name] = false
	case *ast.AliasNode:
		name := anchorName(n.Value)
		target, ok := b.anchors[name]
		switch {
		case !ok:
			out.err = fmt.Errorf("alias *%s: no &%[1]s is written above it", clip(name))
		case b.open[name]:
			out.err = fmt.Errorf("alias *%s is inside of what it stands for", clip(name))
		default:
			out = b.node(target, depth+1)
		}
	case *ast.TagNode:
		switch n.Start.Value {
		case "!!str", "!!int", "!!float", "!!bool", "!!map", "!!seq", "!!null":
			out = b.node(n.Value, depth+1)
		default:
			out.err = fmt.Errorf("tag %s has no meaning here: leave it out", clip(n.Start.Value))
		}
	case *ast.LiteralNode:
		b.text(out, n.Value.Value)
	case *ast.StringNode:
		b.text(out, n.Value)
	case *ast.BoolNode:
		out.kind, out.text = scalar, strings.ToLower(n.Token.Value)
	default:
		if t := n.GetToken(); t != nil { // a number, as it was written
			out.kind, out.text = scalar, t.Value
		}
	}
	return out
}

func anchorName(n ast.Node) string {
	if n == nil || n.GetToken() == nil {
		return ""
	}
	return n.GetToken().Value
}

// text makes n a scalar of a string, its references expanded.
func (b *builder) text(n *node, text string) {
	n.kind = scalar
	expanded, isRef, err := b.expand(text)
	n.text, n.err = expanded, err
	if isRef {
		n.ref = text
	}
}

// mapping fills out with members; merge keys give what is not there itself.
func (b *builder) mapping(out *node, values []*ast.MappingValueNode, depth int) {
	seen := map[string]Place{}
	var merged []*node
	for _, v := range values {
		if v.Key.Type() == ast.MergeKeyType {
			merged = append(merged, b.node(v.Value, depth+1))
			continue
		}
		m := member{place: b.place(v.Key)}
		switch k := v.Key.(type) {
		case *ast.StringNode:
			m.key = k.Value
		case *ast.MappingKeyNode:
			b.note(m.place, "a key behind a question mark: write it plain, as key: value")
			continue
		default:
			if t := v.Key.GetToken(); t != nil {
				m.key = t.Value
			}
		}
		if first, twice := seen[m.key]; twice {
			b.note(m.place, "key %q is there already, at line %d: one of them has to go", clip(m.key), first.Line)
			b.node(v.Value, depth+1) // for its own problems
			continue
		}
		seen[m.key] = m.place
		m.value = b.node(v.Value, depth+1)
		out.members = append(out.members, m)
	}
	for _, from := range merged {
		all := []*node{from}
		if from.kind == sequence {
			all = from.items
		}
		for _, one := range all {
			if one.err != nil {
				b.note(one.place, "%v", one.err)
				continue
			}
			if one.kind != mapping {
				b.note(one.place, "<< takes a mapping, this is %s", one.kind)
				continue
			}
			for _, m := range one.members {
				if out.member(m.key) == nil {
					out.members = append(out.members, m)
				}
			}
		}
	}
}
