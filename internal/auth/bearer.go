package auth

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"strings"
	"sync"
	"time"
)

// maxToken bounds a token: servers take heads of 8 to 16 KiB.
const maxToken = 64 << 10

// tokenFile is a file with a token that may be written anew at any time.
//
// Concurrency: safe. A file that cannot be read, or holds no token, leaves the
// token before in force, and that is logged once.
type tokenFile struct {
	path string
	log  *slog.Logger

	mu     sync.Mutex // guards what follows
	token  *string    // behind a pointer: see Basic
	state  state
	looked time.Time
	said   string // the trouble that was logged
}

// openTokenFile reads the file a first time.
func openTokenFile(path string, log *slog.Logger) (*tokenFile, error) {
	f := &tokenFile{path: path, log: log, looked: time.Now(), state: stateOf(path)}
	token, err := readToken(path)
	f.token = &token
	return f, err
}

// get returns the token as the file has it; fresh looks at it even when that
// was done a moment ago.
func (f *tokenFile) get(fresh bool) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if !fresh && now.Sub(f.looked) < lookAgain {
		return *f.token
	}
	f.looked = now
	state := stateOf(f.path)
	// One written within the clock tick of the last look looks the same.
	recent := state[0] != nil && now.Sub(state[0].ModTime()) < 3*lookAgain
	if !fresh && !recent && f.said == "" && state.same(f.state) {
		return *f.token
	}
	token, err := readToken(f.path)
	switch {
	case err != nil && f.said == "":
		f.said = err.Error()
		f.log.Warn("the token before stays in use until its file is readable again", "error", err)
	case err == nil:
		if f.said != "" {
			f.log.Info("token file is readable again", "file", f.path)
		}
		f.token, f.state, f.said = &token, state, ""
	}
	return *f.token
}

// readToken reads a regular file that holds one token.
func readToken(path string) (string, error) {
	fail := func(err error) (string, error) { return "", fmt.Errorf("token file: %w", err) }
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return fail(err)
	case !info.Mode().IsRegular(): // a pipe could keep us waiting
		return fail(fmt.Errorf("%s is no regular file", path))
	}
	file, err := os.Open(path)
	if err != nil {
		return fail(err)
	}
	defer file.Close()
	raw, err := io.ReadAll(io.LimitReader(file, maxToken+1))
	if err != nil {
		return fail(err)
	}
	token := strings.TrimSpace(string(raw))
	switch {
	case token == "":
		return fail(fmt.Errorf("%s is empty: write the token into it", path))
	case len(raw) > maxToken:
		return fail(fmt.Errorf("%s has more than %d bytes: it is no token", path, maxToken))
	case !headerSafe(token):
		return fail(fmt.Errorf("%s holds spaces, line breaks or what cannot be in a header: want the token alone, without the word Bearer", path))
	}
	return token, nil
}

// headerSafe says whether a token is printable ASCII without spaces.
func headerSafe(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f })
}

// jwtEnd returns when a token says it ends, if it is one that says so.
// Source: RFC 7519 §4.1.4; the signature is the server's business.
func jwtEnd(token string) (time.Time, bool) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return time.Time{}, false
	}
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(parts[1], "="))
	var claims struct {
		Exp *float64 `json:"exp"`
	}
	if err != nil || json.Unmarshal(raw, &claims) != nil || claims.Exp == nil || !(*claims.Exp > 0 && *claims.Exp < math.MaxUint32) {
		return time.Time{}, false
	}
	return time.Unix(int64(*claims.Exp), 0), true
}

// Bearer sends the token of a file that may change.
type Bearer struct {
	file *tokenFile
	pool string // identity pool; "": none
}

// NewBearer reads the token of path; pool, if given, goes along as the
// identity pool to act for.
// Errors: the file holds no token.
func NewBearer(path, pool string, log *slog.Logger) (*Bearer, error) {
	if path == "" {
		return nil, errors.New("a bearer token without its file: set --bearer-token-file")
	}
	file, err := openTokenFile(path, log)
	return &Bearer{file, pool}, err
}

// Authorization returns the header with the token as the file has it.
func (b *Bearer) Authorization(context.Context) (string, error) {
	return "Bearer " + b.file.get(false), nil
}

// Refused looks at the file again.
func (b *Bearer) Refused(value string, _ bool) bool { return "Bearer "+b.file.get(true) != value }

// Close does nothing: the file is looked at only when it is asked for.
func (b *Bearer) Close() {}

// Headers returns the identity pool's header.
func (b *Bearer) Headers() []Header { return poolHeader(b.pool) }

// poolHeader names the identity pool whose rights are wanted.
// Source: Confluent Cloud, OAuth for the Kafka REST API.
func poolHeader(pool string) []Header {
	if pool == "" {
		return nil
	}
	return []Header{{"Confluent-Identity-Pool-Id", pool}}
}

// Describe names the file, and when the token in it ends if it says so.
func (b *Bearer) Describe() string {
	s := "bearer token of " + b.file.path
	if end, ok := jwtEnd(b.file.get(true)); ok {
		return s + ", " + life(end)
	}
	return s
}

// Remedy says what to look at.
func (b *Bearer) Remedy() string {
	s := "the bearer token of " + b.file.path + " is not accepted"
	if end, ok := jwtEnd(b.file.get(true)); ok && time.Now().After(end) {
		return s + ": it ended at " + end.UTC().Format(time.RFC3339) + "; write a new one there, it is taken up without a restart"
	}
	return s + ": it may have ended, be revoked, or be meant for another audience; write a new one there, it is taken up without a restart" + poolHint(b.pool)
}

func poolHint(pool string) string {
	if pool == "" {
		return ""
	}
	return "; check that identity pool " + pool + " and its filter take this token; a Basic cluster takes no OAuth tokens at all"
}

// life says how long there is until end.
func life(end time.Time) string {
	if end.IsZero() {
		return "whose end nobody told"
	}
	left := time.Until(end).Round(time.Second)
	if left <= 0 {
		return fmt.Sprintf("ended %s ago", -left)
	}
	return fmt.Sprintf("good for another %s", left)
}

// String masks the token.
func (b *Bearer) String() string { return "bearer ***" }

// GoString masks likewise.
func (b *Bearer) GoString() string { return "auth.Bearer{***}" }
