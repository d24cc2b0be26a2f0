// The form that sends a test webhook.

const EXAMPLE = '{\n  "event": "test",\n  "message": "Hello from Posthaste"\n}';

const jsonError = (text) => {
  try {
    JSON.parse(text);
    return '';
  } catch (error) {
    return `Invalid JSON: ${error.message}`;
  }
};

/** Ends a message of the API with a full stop, if it has none. */
const sentence = (text) => (text.endsWith('.') ? text : `${text}.`);

/** An input and the place of its error. */
function validated(input) {
  const error = el('p', { id: `${input.id}-error`, class: 'field-error', role: 'alert' });
  input.setAttribute('aria-describedby', error.id);
  const showFieldError = (text) => {
    error.textContent = text;
    input.setAttribute('aria-invalid', text ? 'true' : 'false');
    if (text) input.focus();
  };
  return { input, error, showFieldError };
}

function sendView() {
  const url = validated(
    el('input', {
      id: 'url',
      type: 'url',
      required: true,
      placeholder: 'https://example.com/webhooks',
      autocomplete: 'off',
      spellcheck: 'false',
    }),
  );
  const payload = validated(
    el('textarea', { id: 'payload', rows: 10, spellcheck: 'false', required: true }),
  );
  payload.input.value = EXAMPLE;
  const button = el('button', { class: 'main' }, 'Send');

  const showRefusal = (error) => {
    const urlError = error.fields.find(({ field: name }) => name === 'webhook_url');
    if (urlError) url.showFieldError(sentence(`The URL ${urlError.message}`));
    else payload.showFieldError(error.message);
  };
  const send = async () => {
    const to = url.input.value.trim();
    const invalidPayload = jsonError(payload.input.value);
    payload.showFieldError(invalidPayload);
    url.showFieldError(to ? '' : 'Enter a destination URL.');
    if (!to || invalidPayload) return;
    button.disabled = true;
    try {
      const path = `test-webhook?${query({ webhook_url: to })}`;
      const accepted = await post(path, payload.input.value);
      showToast('Webhook accepted');
      location.hash = `#/webhook/${encodeURIComponent(accepted.webhook_id)}`;
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      showRefusal(error);
    } finally {
      button.disabled = false;
    }
  };
  const form = el(
    'form',
    { class: 'panel narrow', novalidate: true, 'aria-label': 'Test webhook' },
    [field('URL', url.input), url.error],
    [field('Payload (JSON)', payload.input), payload.error],
    el('p', { class: 'buttons' }, button),
  );
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    if (!button.disabled) send();
  });
  const hint =
    'A test webhook is signed, retried, and recorded like any other. Its reference ID starts ' +
    'with TEST-.';
  const root = [
    el('h1', { tabindex: -1 }, 'Send a test webhook'),
    el('p', { class: 'hint' }, hint),
    form,
  ];
  return { title: 'Send a test', root, refresh: async () => {}, everyMs: 60_000 };
}
