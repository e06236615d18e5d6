package auth

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"
)

// store keeps one token in a file, for the next run and for other processes of
// the same user: where tokens have a quota, a restart must not cost one.
//
// Shape: JSON, {"access_token", "expires" (seconds since 1970), "for" (a hash of
// token URL, client id and audience)}; mode 0600 in a directory of mode 0700.
// No client secret is in it, nor in the file's name. A file that is damaged, of
// another client or user, ended, or readable by others is as none.
type store struct {
	path string
	key  string
	said atomic.Bool // that it cannot be written
}

// kept is the file's content.
type kept struct {
	AccessToken string `json:"access_token"`
	Expires     int64  `json:"expires"`
	For         string `json:"for"`
}

// newStore returns the store below dir for what tokenURL gives that client.
func newStore(dir, tokenURL, clientID, audience string) *store {
	if dir == "" {
		return nil
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q %q", tokenURL, clientID, audience))
	key := hex.EncodeToString(sum[:])
	return &store{path: filepath.Join(dir, "token-"+key[:16]+".json"), key: key}
}

// through returns the token that is kept, where good says that it will do, else
// what fetch brings, and keeps that. Of all processes one at a time asks. A
// store that cannot be used only costs a request.
func (s *store) through(ctx context.Context, log *slog.Logger, good func(token) bool, fetch func(context.Context) (token, error)) (token, error) {
	if s == nil {
		return fetch(ctx)
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		s.say(log, err)
		return fetch(ctx)
	}
	defer unlock()
	if tok, ok := s.load(); ok && good(tok) {
		return tok, nil
	}
	tok, err := fetch(ctx)
	if err == nil && !tok.ends.IsZero() {
		if err := s.save(tok); err != nil {
			s.say(log, err)
		}
	}
	return tok, err
}

func (s *store) say(log *slog.Logger, err error) {
	if !s.said.Swap(true) {
		log.Warn("tokens cannot be kept: every start asks for a new one, and they may have a quota", "error", err)
	}
}

// lock waits for the file's lock, as long as ctx lets it and half a request's
// time at most: who hangs must not stop others.
func (s *store) lock(ctx context.Context) (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(s.path), 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(s.path+".lock", os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	for end := time.Now().Add(fetchTime / 2); ; {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) || time.Now().After(end) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", s.path, err)
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			f.Close()
			return nil, context.Cause(ctx)
		}
	}
}

func (s *store) load() (token, bool) {
	f, err := os.OpenFile(s.path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return token{}, false
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 || !ours(info) {
		return token{}, false
	}
	raw, err := io.ReadAll(io.LimitReader(f, 2*maxToken))
	var k kept
	if err != nil || json.Unmarshal(raw, &k) != nil || k.For != s.key || k.AccessToken == "" || !headerSafe(k.AccessToken) {
		return token{}, false
	}
	left := time.Until(time.Unix(k.Expires, 0))
	if left > 366*24*time.Hour {
		return token{}, false
	}
	return token{value: &k.AccessToken, ends: time.Now().Add(left)}, true // from here on by the clock that nobody sets
}

// ours says whether a file belongs to this user: another's could hold a token
// that has records go out as somebody else.
func ours(info os.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(stat.Uid) == os.Geteuid()
}

// save writes a file beside the old one and puts it in its place.
func (s *store) save(tok token) error {
	raw, err := json.Marshal(kept{*tok.value, tok.ends.Unix(), s.key}) //nolint:gosec // G117: to keep the token is what the file is for
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(s.path), ".token-*") // of mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(raw)
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), s.path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}
